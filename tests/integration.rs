//! Everything that is tested through the library's public face, in one binary: burn is linked once.

mod architecture;
#[cfg(feature = "recipes")]
mod hostile;
mod memory;
mod parity;
#[cfg(feature = "recipes")]
mod run;
#[cfg(feature = "serve")]
mod serve;
mod ui;

#[global_allocator]
static ALLOCATOR: memory::Counting = memory::Counting;
