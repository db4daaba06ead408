"""Play agents on the same episodes, print a table, and write JSON with --out.

--agents takes wait, random, schedule, heuristic and paths: a checkpoint, a run's folder, or a folder of runs.
--config FILE reads settings from a .toml or .json file; flags win over it.
--print-config prints the resolved settings as JSON, which --config accepts, and stops.
"""

import sys

from command_line import Values, configure, fail, flag_parser

from esper_agents import config_file
from esper_agents.compare import build, compare
from esper_agents.table import table


def main(argv: list[str]) -> None:
    """Parse, build, call."""
    parser = flag_parser()
    parser.add_argument("--print-config", action="store_true")
    first, rest = parser.parse_known_args(argv)
    try:
        base: Values = config_file.read(first.config) if first.config else {}
        parser.add_argument("--agents", nargs="+")
        if (agents := parser.parse_known_args(argv)[0].agents) is not None:
            base["agents"] = agents
        config = configure(build, base, rest, __doc__ or "")
        if first.print_config:
            print(config.model_dump_json(indent=2))
            return
        result = compare(config, sys.stderr)
        print(f"data: {result.provenance}")
        print("\n".join(table(result.evaluations)))
    except (ValueError, FileNotFoundError) as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
