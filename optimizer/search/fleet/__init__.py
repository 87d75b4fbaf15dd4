"""Which models run where: offers -> usage vectors -> one-hot choice under the pools' room ->
GPUs."""

from optimizer.search.fleet.choosing import CRITERIA, FleetChoice, choose_fleet, choose_near
from optimizer.search.fleet.keeping import Held, Keeper, Running, held_by
from optimizer.search.fleet.naming import name_gpus, name_gpus_near
from optimizer.search.fleet.near import Moving, nearby, value_of
from optimizer.search.fleet.offers import Offer, best_rows, offers_of
from optimizer.search.fleet.ranking import gpus_of, rank_alone
from optimizer.search.fleet.reach import Ask, Objective
from optimizer.search.fleet.room import PoolRoom, packable, rooms_of
from optimizer.search.fleet.vectors import Near, Use, Vector, served_by, vectors_of

__all__ = [
    "CRITERIA",
    "Ask",
    "FleetChoice",
    "Held",
    "Keeper",
    "Moving",
    "Near",
    "Objective",
    "Offer",
    "PoolRoom",
    "Running",
    "Use",
    "Vector",
    "best_rows",
    "choose_fleet",
    "choose_near",
    "gpus_of",
    "held_by",
    "name_gpus",
    "name_gpus_near",
    "nearby",
    "offers_of",
    "packable",
    "rank_alone",
    "rooms_of",
    "served_by",
    "value_of",
    "vectors_of",
]
