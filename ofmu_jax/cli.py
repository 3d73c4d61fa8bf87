"""The command line: parse, build a config, call `runs`.

Exit status 0 on success, 2 with one line on bad input, 1 with a traceback on a bug, and with lines
where a request misses its thresholds or a record does not hold, 130 on Ctrl-C, 143 on SIGTERM
between the steps of a run, 75 when another process of the run is lost.
"""

import contextlib
import dataclasses
import io
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import tyro

from ofmu_jax.completion import SHELLS, completion_script, with_the_flags_of_all
from ofmu_jax.errors import InputError
from ofmu_jax.methods import METHODS, Ofmu
from ofmu_jax.methods.lookup import named
from ofmu_jax.methods.vision import IMAGE_METHODS
from ofmu_jax.requests.config import ServeConfig
from ofmu_jax.runs.config import (
    EvaluateConfig,
    ExportConfig,
    ForgetQualityConfig,
    TrainConfig,
    UnlearnConfig,
    from_dict,
    read_mapping,
)
from ofmu_jax.runs.plan_config import PlanConfig
from ofmu_jax.runs.stopping import Stopped
from ofmu_jax.runs.vision.config import ImageUnlearnConfig
from ofmu_jax.scale import start_processes
from ofmu_jax.scale.launch import launch
from ofmu_jax.version import __version__

# Commands for image classifiers are two words.
_IMAGES = "images"
_VISION = "--vision"
# The exit status when another process of the run is lost, that of a temporary failure (sysexits.h).
_LOST = 75

# The commands that take a method, with those they know.
_METHODS_OF: Mapping[Any, Mapping[str, type]] = {
    UnlearnConfig: METHODS,
    PlanConfig: METHODS,
    ServeConfig: METHODS,
    ImageUnlearnConfig: IMAGE_METHODS,
}

# Taken before any other flag, as JAX must not have computed anything yet.
_DISTRIBUTED = "--distributed"
_SEVERAL_PROCESSES = ("train", "unlearn")

# What goes on, besides results: on stderr, from this level on.
_LOG_LEVEL, _LEVELS = "--log-level", ("debug", "info", "warning", "error")

_HELP = f"""ofmu {__version__}: machine unlearning in JAX.

usage: ofmu COMMAND [flags]

commands:
  demo        the whole story on embedded data: train, retrain, unlearn, compare, report;
              with {_VISION} the same on images of digits
  train       train a small Llama, or fine-tune a checkpoint
  unlearn     make a trained model forget; --method {" | ".join(METHODS)}
  evaluate    forget quality, model utility, memorisation, membership inference, and their parts
  attack      try to bring forgotten knowledge back; which attack recovers most
  compare     methods with the same number of trials each, then seeds: table, tests, trade-off plot
  forget-quality   two TOFU_EVAL.json, of whichever tool, held against each other
  serve-requests   deletion requests of a file, one by one or merged, each with a record
  verify-record    recompute what a deletion record states
  report      runs side by side on one HTML page: metrics, plots, answers, configs
  export      write a model as a Hugging Face folder
  launch      several processes on this machine: launch --processes N [--devices M] COMMAND ...
  plan        compile a step for TPUs that are not here: memory, traffic, time, what fits
  images train | unlearn | evaluate   the same for image classifiers;
              --method {" | ".join(IMAGE_METHODS)}
  completion  what a shell needs to complete all this: completion {" | ".join(SHELLS)}

Every command explains its flags with --help, takes them from --config FILE (YAML or JSON, as in a
run's config.json) with flags given beside it winning, and writes a run folder to --out. --model is
a run folder, a Hugging Face folder or hf://organisation/name. {", ".join(_SEVERAL_PROCESSES)}: with
--mesh.fsdp -1 on all devices, and with {_DISTRIBUTED} on those of all hosts, started on each alike.
{_LOG_LEVEL} {" | ".join(_LEVELS)}: how much a command says of what it does.

  ofmu demo --out out/demo
  ofmu train authors --out out/original
  ofmu train authors --split retain --out out/retrained
  ofmu unlearn authors --model out/original --method npo --out out/npo
  ofmu evaluate authors --model out/npo --out out/npo_eval
  ofmu attack authors --model out/npo --retrained out/retrained --original out/original \\
       --out out/npo_attack
  ofmu forget-quality out/npo_eval/TOFU_EVAL.json out/retrained_eval/TOFU_EVAL.json
  ofmu report out/npo out/original_eval out/npo_eval --out out/report.html
  ofmu export --model out/npo --out out/npo_hf
  ofmu plan --model llama-2-7b --topology v5e:4x4 --method npo
  ofmu images train digits --out out/digits
  ofmu images train digits --split retain --out out/digits_retrained
  ofmu images unlearn digits --model out/digits --method salun --out out/salun
  ofmu images evaluate digits --model out/salun --retrained out/digits_retrained --out out/scores
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == [_IMAGES] and len(arguments) > 1:
        arguments = [" ".join(arguments[:2]), *arguments[2:]]
    if arguments[:1] == ["demo"] and _VISION in arguments:
        arguments = [f"demo {_VISION}", *(a for a in arguments[1:] if a != _VISION)]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    try:
        if arguments[0] == "launch":
            return _launch(arguments[1:])
        level, arguments = _take(arguments, _LOG_LEVEL)
        with _logged(level or "info"):
            if arguments[:1] == ["completion"]:
                return _complete(arguments[1:])
            return _run(arguments[0], arguments[1:])
    except InputError as error:
        print(f"ofmu: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that fills, a folder that may not be written
        print(f"ofmu: error: {error}", file=sys.stderr)
        return 2
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        print(
            f"ofmu: error: process {jax.process_index()} lost another process of this run; go on "
            f"with --resume ({' '.join(str(error).split())[:200]})",
            file=sys.stderr,
        )
        # An orderly end would wait for those that are lost.
        sys.stderr.flush()
        os._exit(_LOST)
    except Stopped as stop:
        print(f"ofmu: {stop}", file=sys.stderr)
        return stop.status
    except KeyboardInterrupt:
        print("ofmu: interrupted; go on with --resume", file=sys.stderr)
        return 130


@contextlib.contextmanager
def _logged(level: str) -> Iterator[None]:
    """Within it, what the package logs from `level` on is shown; at debug, its libraries too."""
    if level not in _LEVELS:
        raise InputError(f"{_LOG_LEVEL} is {level!r}; expected one of {', '.join(_LEVELS)}")
    debug = level == "debug"
    levels: dict[str, Any] = {"ofmu_jax": level.upper()}
    # orbax, through absl, logs a failure with its traceback before it raises it; the raised one is
    # enough. So are the first of several at a time.
    quiet: dict[str, Any] = {"absl": logging.CRITICAL, "asyncio": logging.CRITICAL}
    told = levels | {"absl": logging.DEBUG, "jax": logging.DEBUG} if debug else levels
    for name, value in (quiet | told).items():
        logging.getLogger(name).setLevel(value)
    handler = logging.StreamHandler()
    handler.setFormatter(
        logging.Formatter("%(asctime)s %(name)s: %(message)s" if debug else "%(message)s")
    )
    loggers = [logging.getLogger(name) for name in told]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False  # a library may have given the root a handler of its own
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.propagate = True


def _run(command: str, arguments: list[str]) -> int:
    commands = _commands()
    if command not in commands:
        raise InputError(f"unknown command {command!r}: expected one of {', '.join(commands)}")
    config_type, function = commands[command]
    if _DISTRIBUTED in arguments:
        if command not in _SEVERAL_PROCESSES:
            raise InputError(
                f"{_DISTRIBUTED}: {command} runs in one process; expected one of "
                f"{', '.join(_SEVERAL_PROCESSES)}"
            )
        arguments = [a for a in arguments if a != _DISTRIBUTED]
        start_processes()
    given, arguments = _take(arguments, "--config")
    default: Any = None
    if given is not None:
        values = read_mapping(given)
        values = values.get("config", values)  # a run's config.json holds versions beside it
        default = from_dict(config_type, values, f"config {given}")
    config = _parse(config_type, arguments, default, f"ofmu {command}")
    result = function(config)
    return result if isinstance(result, int) else 0


def _launch(arguments: list[str]) -> int:
    """`ofmu launch --processes N [--devices M] COMMAND...`."""
    numbers = {"--processes": 2, "--devices": 1}
    while arguments and (flag := arguments[0].split("=")[0]) in numbers:
        value, rest = _take(arguments[:2], flag)
        if not (value or "").isdecimal() or int(value or 0) < 1:
            raise InputError(f"launch {flag} is {value}; expected a number >= 1")
        numbers[flag], arguments = int(value or 0), [*rest, *arguments[2:]]
    if not arguments or arguments[0] not in _SEVERAL_PROCESSES:
        raise InputError(
            "launch: expected `ofmu launch --processes N [--devices M] COMMAND ...` with one of "
            f"{', '.join(_SEVERAL_PROCESSES)} for COMMAND"
        )
    command = [sys.executable, "-m", "ofmu_jax", *arguments, _DISTRIBUTED]
    return launch(command, numbers["--processes"], numbers["--devices"])


def _complete(arguments: list[str]) -> int:
    """`ofmu completion SHELL`."""
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise InputError(f"completion: expected one of {', '.join(SHELLS)}")
    configs = {}
    config: Any
    for name, (config, _) in _commands().items():
        if config in _METHODS_OF:
            config = config[with_the_flags_of_all(_METHODS_OF[config])]
        if _VISION not in name:
            configs[name] = config
    print(completion_script(arguments[0], configs))
    return 0


def _commands() -> dict[str, tuple[type, Callable[[Any], Any]]]:
    """Imported late, so that `ofmu --help` does not wait for plots and statistics."""
    from ofmu_jax.contest.compare import compare
    from ofmu_jax.contest.config import CompareConfig
    from ofmu_jax.requests.config import VerifyConfig
    from ofmu_jax.requests.serve import serve_requests
    from ofmu_jax.requests.verify import verify_record
    from ofmu_jax.runs.attack import attack
    from ofmu_jax.runs.attack_config import AttackConfig
    from ofmu_jax.runs.demo import DemoConfig, demo
    from ofmu_jax.runs.evaluate import evaluate
    from ofmu_jax.runs.models import export
    from ofmu_jax.runs.page import ReportConfig, report
    from ofmu_jax.runs.plan import plan
    from ofmu_jax.runs.quality import compare_results
    from ofmu_jax.runs.train import train
    from ofmu_jax.runs.unlearn import unlearn
    from ofmu_jax.runs.vision.config import ImageEvaluateConfig, ImageTrainConfig
    from ofmu_jax.runs.vision.demo import ImageDemoConfig, demo_images
    from ofmu_jax.runs.vision.evaluate import evaluate_images
    from ofmu_jax.runs.vision.train import train_images
    from ofmu_jax.runs.vision.unlearn import unlearn_images

    return {
        "demo": (DemoConfig, demo),
        "train": (TrainConfig, train),
        "unlearn": (UnlearnConfig, unlearn),
        "evaluate": (EvaluateConfig, evaluate),
        "attack": (AttackConfig, attack),
        "compare": (CompareConfig, compare),
        "forget-quality": (ForgetQualityConfig, compare_results),
        "serve-requests": (ServeConfig, serve_requests),
        "verify-record": (VerifyConfig, verify_record),
        "report": (ReportConfig, report),
        "export": (ExportConfig, export),
        "plan": (PlanConfig, plan),
        f"demo {_VISION}": (ImageDemoConfig, demo_images),
        "images train": (ImageTrainConfig, train_images),
        "images unlearn": (ImageUnlearnConfig, unlearn_images),
        "images evaluate": (ImageEvaluateConfig, evaluate_images),
    }


def _take(arguments: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Takes `flag VALUE` or `flag=VALUE` out of the arguments."""
    value, rest, iterator = None, [], iter(arguments)
    for argument in iterator:
        if argument == flag:
            value = next(iterator, None)
            if value is None:
                raise InputError(f"{flag} needs a value")
        elif argument.startswith(f"{flag}="):
            value = argument.removeprefix(f"{flag}=")
        else:
            rest.append(argument)
    return value, rest


def _parse(config_type: Any, arguments: list[str], default: Any, program: str) -> Any:
    """The config from the flags; a method's own flags are those of the method named."""
    if config_type in _METHODS_OF:
        name, arguments = _take(arguments, "--method")
        if name is None:
            name = Ofmu.name if default is None else default.method.name
        method = named(name, _METHODS_OF[config_type])
        if default is not None and name != default.method.name:
            default = dataclasses.replace(default, method=method())
        config_type = config_type[method]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(config_type, args=arguments, default=default, prog=program)
    except SystemExit as stop:
        if stop.code:
            raise InputError(_one_line(errors.getvalue())) from None
        raise


def _one_line(box: str) -> str:
    """tyro's boxed message as one line, without its pointer to the help text."""
    text = re.sub(r"[╭╮╰╯│─]|-{3,}", " ", box).split("For full helptext")[0]
    return " ".join(text.split())
