"""Which models run where: offers -> usage vectors -> one-hot choice under the pools' room ->
GPUs."""

from optimizer.search.fleet.choosing import CRITERIA, FleetChoice, choose_fleet
from optimizer.search.fleet.naming import name_gpus
from optimizer.search.fleet.offers import Offer, best_rows, offers_of
from optimizer.search.fleet.ranking import gpus_of, rank_alone
from optimizer.search.fleet.reach import Ask, Objective
from optimizer.search.fleet.room import PoolRoom, packable, rooms_of
from optimizer.search.fleet.vectors import Use, Vector, served_by, vectors_of

__all__ = [
    "CRITERIA",
    "Ask",
    "FleetChoice",
    "Objective",
    "Offer",
    "PoolRoom",
    "Use",
    "Vector",
    "best_rows",
    "choose_fleet",
    "gpus_of",
    "name_gpus",
    "offers_of",
    "packable",
    "rank_alone",
    "rooms_of",
    "served_by",
    "vectors_of",
]
