"""troth: keeps data consistent across processes, machines and databases, and proves that it does."""

__version__ = "0.1.0"
