# SPDX-License-Identifier: Apache-2.0
"""Workers, epolls and connections on as many cores as one likes, in simulated time.

The model behind bench/scaling.py; docs/scaling.md says what it holds and what it leaves out.
"""
