//! The tests whose bodies go through every device of the build, without all others.

mod conformance;
mod devices;
mod learning;
mod tiny;
