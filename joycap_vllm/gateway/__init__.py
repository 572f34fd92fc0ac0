"""The proxy: JoyCaption for every tool that speaks the OpenAI API, without its glitches.

Stands on the captioner. Starlette and uvicorn (the extra `web`) are imported when it serves.
"""

from joycap_vllm.gateway.serve import GatewayOptions, serve_gateway
from joycap_vllm.gateway.toolkit.start import Defaults, toolkit_defaults

__all__ = ["Defaults", "GatewayOptions", "serve_gateway", "toolkit_defaults"]
