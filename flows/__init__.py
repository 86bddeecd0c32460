"""The roof: what runs after what. Composition only; every floor below may be imported."""
