"""The registered models: `python -m skinml.registry list` and `promote`."""

import sys

from skinml.base.errors import run_command
from skinml.config import Parser
from skinml.store.access import ask
from skinml.store.champion import CHAMPION, list_versions, promote, registry_is_needed


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="python -m skinml.registry", description="Registered models of skinml.")
    commands = parser.add_subparsers(required=True, metavar="list|promote", dest="command")
    commands.add_parser("list", help="list all versions and which is the champion")
    promotion = commands.add_parser("promote", help="make a version the champion, whatever it is")
    promotion.add_argument("name")
    promotion.add_argument("version")
    options = parser.parse_args(argv)
    if options.command == "list":
        with registry_is_needed("list"):
            print(ask(list_versions))
        return 0
    with registry_is_needed(f"{options.name} {options.version}"):
        pair = ask(lambda: promote(options.name, options.version))
    for version in pair:
        print(f"{version.name}@{CHAMPION} is now version {version.version}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
