from polyjob.cli import main

main()
