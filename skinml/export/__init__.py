"""Networks in files that need no TensorFlow: conversion, what it costs, and how they are asked."""
