"""What goes into a build: pictures, bundled files, and the key that says whether any of it has changed."""
