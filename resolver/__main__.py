"""`python -m resolver` is `tampah`."""

from resolver.cli import main

if __name__ == "__main__":
    main()
