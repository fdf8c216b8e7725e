"""Programs on the API of `induced`: each assembles library objects, trains them and looks at what came out."""
