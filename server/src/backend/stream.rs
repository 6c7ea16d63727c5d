mod core;
mod runs;
