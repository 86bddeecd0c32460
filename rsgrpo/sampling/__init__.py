"""Drawing completions: `sample` writes Parquet parts that are complete or drawn again whole."""
