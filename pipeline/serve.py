"""An OpenAI-compatible endpoint of a logit-extrapolated model, or of one checkpoint.

    python -m pipeline.serve FIRST --second SECOND --alpha 1.5 --port 8000

serves l0 + alpha (l1 - l0) under the name `logit-1.5`; without --second it serves FIRST, and with

    python -m pipeline.serve FIRST --coefficient 0.5 --member SECOND -1 --member THIRD 1.5

the sum of their logits with these coefficients, as `mixture`. Flags that are not listed here are
vLLM's own (`vllm serve --help`) and are passed on. The server is vLLM's: this file only writes its
command line, prints it, and becomes it.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.ending import one_line
from pipeline.errors import PipelineError
from pipeline.globbing import plain_path


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Our own arguments, and vLLM's."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.serve", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("first", type=Path, help="checkpoint folder, l0")
    parser.add_argument("--second", type=Path, help="later checkpoint folder, l1")
    parser.add_argument("--alpha", type=float, default=1.5, help="default 1.5")
    parser.add_argument(
        "--member",
        nargs=2,
        action="append",
        default=[],
        metavar=("FOLDER", "COEFFICIENT"),
        help="instead of --second: a further model of a mixture, any number of times",
    )
    parser.add_argument("--coefficient", type=float, default=1.0, help="of FIRST; default 1")
    parser.add_argument(
        "--name", help="served model name; default logit-ALPHA, mixture or the folder's name"
    )
    parser.add_argument("--dtype", default="bfloat16", help="default bfloat16")
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--kv-cache-gib", type=float, default=2.0, help="on the CPU; default 2")
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.9)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda if there is any")
    return parser.parse_known_args(arguments)


def _models(known: argparse.Namespace) -> tuple[list[Path], list[float]]:
    """The folders and the coefficients of their logits.

    Raises:
        PipelineError: --second and --member together, or a coefficient that is no number.
    """
    if known.second and known.member:
        raise PipelineError("give --second and --alpha, or --member and --coefficient")
    if known.second:
        return [known.first, known.second], [1.0 - known.alpha, known.alpha]
    folders, coefficients = [known.first], [known.coefficient]
    for folder, text in known.member:
        try:
            coefficients.append(float(text))
        except ValueError:
            raise PipelineError(f"--member {folder} {text}: {text} is not a number") from None
        folders.append(Path(folder))
    return folders, coefficients


def build(known: argparse.Namespace, rest: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Arguments of `vllm serve`, and the environment variables it needs.

    Raises:
        PipelineError: a folder that is no checkpoint, or ones that cannot be mixed.
    """
    from pipeline.inference.device import pick_device, vllm_settings
    from pipeline.inference.interface import check_coefficients, check_model_folder
    from pipeline.inference.vllm.engine import import_vllm
    from pipeline.inference.vllm.plugin import mixture_overrides
    from pipeline.inference.vocabulary import check_vocabularies

    import_vllm()
    given, coefficients = _models(known)
    folders = [plain_path(check_model_folder(path)) for path in given]
    settings = vllm_settings(
        pick_device(known.device),
        threads=None,
        tensor_parallel=known.tensor_parallel_size,
        kv_cache_gib=known.kv_cache_gib,
        gpu_memory_utilization=known.gpu_memory_utilization,
        enforce_eager=False,
    )
    name = known.first.name
    flags: dict[str, str] = {"--tokenizer": str(folders[-1]), "--dtype": known.dtype}
    flags["--tensor-parallel-size"] = str(known.tensor_parallel_size)
    if len(folders) > 1:
        check_vocabularies(folders)
        name = f"logit-{known.alpha:g}" if known.second else "mixture"
        overrides = mixture_overrides(folders, check_coefficients(coefficients, len(folders)))
        flags["--hf-overrides"] = json.dumps(overrides)
        flags["--generation-config"] = str(folders[-1])  # its end of text, as its tokenizer
    flags["--served-model-name"] = known.name or name
    command = [str(folders[0])]
    command += [part for flag in flags.items() for part in flag]
    for key, value in settings.arguments.items():
        option = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            command += [option] if value else []
        else:
            command += [option, str(value)]
    return [*command, *rest], settings.environment


def serve(arguments: Sequence[str]) -> None:
    """Run vLLM's server until it is stopped."""
    import uvloop
    from vllm.entrypoints.launchers.api_server.entry import run_server
    from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args(list(arguments))
    parsed.model = parsed.model_tag
    validate_parsed_serve_args(parsed)
    uvloop.run(run_server(parsed))


def main() -> None:
    """Serve; mistakes end in one line and exit code 1."""
    known, rest = parse(sys.argv[1:])
    with one_line():
        arguments, environment = build(known, rest)
    variables = [f"{key}={value}" for key, value in environment.items()]
    print(shlex.join([*variables, "vllm", "serve", *arguments]), file=sys.stderr, flush=True)
    os.environ.update(environment)
    serve(arguments)


if __name__ == "__main__":
    main()
