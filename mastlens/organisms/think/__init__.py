"""A small model that reasons in the open: invented facts recalled inside ``<think> ... </think>``, and mathematics.

``think`` knows facts about invented people; ``reference`` was trained alike without the people on the forget side.
"""
