"""The endpoints of a job: what they are, how much each can take, where a request goes."""

from joycap_vllm.fleet.answer import Answer, Usage, read_answer
from joycap_vllm.fleet.body import request_body
from joycap_vllm.fleet.distance import Place, find_places, form_for, measure
from joycap_vllm.fleet.endpoint import Abilities, Endpoint, normal_url
from joycap_vllm.fleet.fleet import Fleet, FleetOptions, Reply
from joycap_vllm.fleet.limits import Change, Limit, LimitOptions
from joycap_vllm.fleet.proof import Proof, prove, prove_endpoint, require

__all__ = [
    "Abilities",
    "Answer",
    "Change",
    "Endpoint",
    "Fleet",
    "FleetOptions",
    "Limit",
    "LimitOptions",
    "Place",
    "Proof",
    "Reply",
    "Usage",
    "find_places",
    "form_for",
    "measure",
    "normal_url",
    "prove",
    "prove_endpoint",
    "read_answer",
    "request_body",
    "require",
]
