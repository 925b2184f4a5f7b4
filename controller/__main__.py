"""`python -m controller …` is `everpool …`."""

from controller.cli.main import main

if __name__ == "__main__":
    main()
