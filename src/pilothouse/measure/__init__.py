"""How fast is it under load? Open-loop arrivals, a client process that only reads and notes, figures against an SLO."""
