"""Run in a published client's own Python: each line of stdin is one command, each of stdout its result.

Questions get a yes. One process runs many commands, because importing a client takes seconds. Understood by Python 3.6.
"""

import json
import os
import sys

from click.testing import CliRunner
from polyaxon_cli.main import cli


def main():
    lines, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # some print past the runner
    for line in iter(lines.readline, ""):
        result = CliRunner().invoke(cli, json.loads(line), input="y\n")
        answer = {"code": result.exit_code, "output": result.output, "error": repr(result.exception)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
