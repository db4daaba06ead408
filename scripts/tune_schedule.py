"""Search a good plan for the agent `schedule`: random draws, and successive halving over seeds.

Beside the options below:

--config FILE: settings from a .toml or .json file; flags win over it.
--print-config: print the resolved settings as JSON, which --config accepts, and stop.

The plan is written as schedule.json, which --config of the other scripts accepts, with tables of all rungs.
"""

import sys

from command_line import Values, configure, fail, flag_parser

from esper_agents import config_file
from esper_agents.table import table
from esper_agents.tune import build, tune
from esper_agents.tuned import PLAN


def main(argv: list[str]) -> None:
    """Parse, build, call."""
    parser = flag_parser()
    parser.add_argument("--print-config", action="store_true")
    first, rest = parser.parse_known_args(argv)
    try:
        base: Values = config_file.read(first.config) if first.config else {}
        config = configure(build, base, rest, __doc__ or "")
        if first.print_config:
            print(config.model_dump_json(indent=2))
            return
        tuned = tune(config, lambda line: print(line, flush=True))
        print("\n".join(table(tuned.evaluations)))
        print(f"plan: {tuned.folder / PLAN}")
    except (ValueError, FileNotFoundError) as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
