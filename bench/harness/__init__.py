# SPDX-License-Identifier: Apache-2.0
"""What the measuring programs share: contestants, processes, load and report."""
