//! Everything that is tested through the library's public face, in one binary: burn is linked once.

mod architecture;
mod hostile;
mod parity;
mod run;
mod ui;
