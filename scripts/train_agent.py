"""Train an agent on Esper, or evaluate one that does not learn.

Beside the options below:

--config FILE: settings from a .toml or .json file; flags win over it, it wins over the preset of --env.
--print-config: print the resolved settings as JSON, which --config accepts, and stop.
--dry-run: check everything, play a short rollout, do one update, write nothing, and stop.
--resume [PATH]: continue a checkpoint, a run's folder, or the newest run of a folder (default: --logdir).
"""

import sys
from pathlib import Path

from command_line import Values, configure, fail, flag_parser

from esper_agents import checkpoint, config_file
from esper_agents.config import TrainConfig, build


def main(argv: list[str]) -> None:
    """Parse, build, call."""
    parser = flag_parser()
    parser.add_argument("--print-config", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--resume", nargs="?", const=Path(), type=Path)
    first, rest = parser.parse_known_args(argv)
    try:
        base: Values = config_file.read(first.config) if first.config else {}
        for name in ("env", "logdir"):
            parser.add_argument(f"--{name}")
            if (flag := getattr(parser.parse_known_args(argv)[0], name)) is not None:
                base[name] = flag
        if first.resume is not None:
            logdir = Path(base.get("logdir", TrainConfig.model_fields["logdir"].default))
            first.resume = checkpoint.find_checkpoint(first.resume if first.resume != Path() else logdir)
            base = checkpoint.read_record(first.resume)["config"] | base
        config = configure(build, base, rest, __doc__ or "")
        if first.print_config:
            print(config.model_dump_json(indent=2))
        elif first.dry_run:
            from esper_agents.dry_run import dry_run

            print("\n".join(dry_run(config, first.resume)))
        else:
            from esper_agents.train import train

            summary = train(config, first.resume)
            print(f"curves: {Path(sys.executable).parent}/tensorboard --logdir {summary.folder.parent}")
            sys.exit(0 if summary.evaluations else 130)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1:])
