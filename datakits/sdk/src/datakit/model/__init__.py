"""The words of the product as types: datakits, contracts, warehouses, environments, runs. Imports no driver."""
