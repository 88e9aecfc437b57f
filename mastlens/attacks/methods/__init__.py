"""The attacks of the package, one file each; a further file here is a further attack."""
