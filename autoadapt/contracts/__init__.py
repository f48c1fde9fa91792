"""Contracts: what a module promises. Its containers, the exact size of every axis, and how both are found out."""
