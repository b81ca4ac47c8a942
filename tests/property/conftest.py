from hypothesis import settings

# What `make tiers-exact` runs: of the two tiers together thirty times the worlds.
settings.register_profile("tiers-exact", max_examples=3000, deadline=None)
