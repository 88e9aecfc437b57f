"""How deep an edit goes: hidden states of the edited model put into the source, layer by layer."""
