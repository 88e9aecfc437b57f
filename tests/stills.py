"""Reads stills: SVG that stands in a page."""

import xml.etree.ElementTree as ElementTree

SVG = "{http://www.w3.org/2000/svg}"


def read(svg):
    """Return a still as a tree: HTML gives an SVG its name space by itself."""
    return ElementTree.fromstring(svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def kinds(tree):
    """Return the kinds of element in a still, a name for each of them."""
    return [each.tag.removeprefix(SVG) for each in tree.iter()]
