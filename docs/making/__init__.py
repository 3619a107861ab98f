"""Makes the site of the documentation: pages as they are written, a reference from the code, an executed notebook."""
