"""What the commands of python -m active do, one a file. These alone, and with_dan and seen, know how DAN is trained."""
