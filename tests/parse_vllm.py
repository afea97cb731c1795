"""Run by a Python that has vLLM: its own parser reads a command line of `vllm`."""

import sys

from vllm import platforms
from vllm.platforms.cpu import CpuPlatform

platforms.current_platform = CpuPlatform()  # on a machine without a GPU, else it names no device

from vllm.entrypoints.openai.cli_args import make_arg_parser, validate_parsed_serve_args  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402

parser = FlexibleArgumentParser()
serve = make_arg_parser(parser.add_subparsers().add_parser("serve"))
args = parser.parse_args(sys.argv[1:])
validate_parsed_serve_args(args)
model = getattr(args, "model_tag", None) or args.model
print(model, args.tensor_parallel_size, args.data_parallel_size, args.max_model_len, args.generation_config)
