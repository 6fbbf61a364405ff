//! A real one-node cluster for tests.
