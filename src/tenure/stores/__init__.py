"""The stores that hold tenant data: two contracts (`contract.py`) and one module or package per kind of store.

Store modules never import each other.
"""
