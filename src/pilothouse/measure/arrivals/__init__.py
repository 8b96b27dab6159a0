"""Arrival processes, one file each: when do requests come?"""
