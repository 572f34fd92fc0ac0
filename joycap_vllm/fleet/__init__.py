"""The endpoints of a job: what they are, how much each can take, where a request goes."""

from joycap_vllm.fleet.advice import ADVICE
from joycap_vllm.fleet.answer import Answer, Usage, read_answer
from joycap_vllm.fleet.body import Body, request_body
from joycap_vllm.fleet.discovery import Listing, listing_of
from joycap_vllm.fleet.distance import Place, find_places, form_for, measure
from joycap_vllm.fleet.endpoint import CONNECTIONS, Abilities, Endpoint, normal_url
from joycap_vllm.fleet.fleet import Fleet, FleetOptions
from joycap_vllm.fleet.limits import Change, Limit, LimitOptions
from joycap_vllm.fleet.live import OnText
from joycap_vllm.fleet.proof import Proof, prove, prove_endpoint, require
from joycap_vllm.fleet.roll import Entry, Roll, notes_on, usable
from joycap_vllm.fleet.station import Reply

__all__ = [
    "ADVICE",
    "CONNECTIONS",
    "Abilities",
    "Answer",
    "Body",
    "Change",
    "Endpoint",
    "Entry",
    "Fleet",
    "FleetOptions",
    "Limit",
    "LimitOptions",
    "Listing",
    "OnText",
    "Place",
    "Proof",
    "Reply",
    "Roll",
    "Usage",
    "find_places",
    "form_for",
    "listing_of",
    "measure",
    "normal_url",
    "notes_on",
    "prove",
    "prove_endpoint",
    "read_answer",
    "request_body",
    "require",
    "usable",
]
