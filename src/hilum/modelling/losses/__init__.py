"""Losses, one in each file, and class weights."""
