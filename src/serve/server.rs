//! The server: bound, run, stopped.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::watch;

use super::admit::Queue;
use super::backend::Backend;
use super::body::Bodies;
use super::connections;
use super::error::ServeError;
use super::metrics::Metrics;
use super::routes::{App, now, router};
use super::settings::ServeSettings;

/// Threads that parse requests.
const PARSERS: usize = 4;

/// Whether the server takes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    Running,
    /// No new ones; those that are there may end.
    Draining,
    Stopped,
}

/// A server that listens, and answers once it [runs](Self::run).
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: Arc<App>,
    handle: Handle,
}

/// Stops a server, from any thread.
#[derive(Clone, Debug)]
pub struct Handle(Arc<watch::Sender<Phase>>);

impl Handle {
    /// Asks the server to stop: it takes no more connections, and ends when all requests have ended or
    /// [`ServeSettings::grace`] is over. Asked a second time, it stops at once. For a Ctrl-C handler.
    pub fn shut_down(&self) {
        self.0.send_modify(|phase| {
            *phase = if *phase == Phase::Running { Phase::Draining } else { Phase::Stopped };
        });
    }
}

impl Server {
    /// Takes the address. Nothing is answered yet, but clients may connect already.
    ///
    /// # Errors
    /// [`ServeError`] for an address that cannot be had, or settings that cannot be obeyed.
    pub fn bind(mut settings: ServeSettings, backend: Arc<dyn Backend>) -> Result<Self, ServeError> {
        settings.check()?;
        if let Some(root) = &mut settings.images_root {
            let error = |source| ServeError::ImagesRoot { path: root.clone(), source };
            let canonical = root.canonicalize().map_err(error)?;
            if !canonical.is_dir() {
                let source = std::io::ErrorKind::NotADirectory.into();
                return Err(ServeError::ImagesRoot { path: canonical, source });
            }
            *root = canonical;
        }
        let bind = |source| ServeError::Bind { address: settings.address, source };
        let listener = TcpListener::bind(settings.address).map_err(bind)?;
        listener.set_nonblocking(true).map_err(bind)?;
        let address = listener.local_addr().map_err(bind)?;
        let (sender, phase) = watch::channel(Phase::Running);
        let app = App {
            queue: Queue::new(settings.slots, settings.queue),
            bodies: Bodies::new(settings.limits.all_bodies_bytes),
            metrics: Metrics::default(),
            own_name_only: address.ip().is_loopback() && settings.token.is_none(),
            started: now(),
            settings,
            backend,
            phase,
        };
        Ok(Self { listener, address, app: Arc::new(app), handle: Handle(Arc::new(sender)) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What stops it.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Answers until it is [shut down](Handle::shut_down). Requests that have not ended by then are cancelled.
    ///
    /// # Errors
    /// [`ServeError::Start`].
    pub fn run(self) -> Result<(), ServeError> {
        let Self { listener, app, handle, .. } = self;
        let start = |source| ServeError::Start { source };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(PARSERS)
            .thread_name("serve")
            .build()
            .map_err(start)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(start)?
        };
        let router = router(Arc::clone(&app));
        runtime.block_on(connections::serve(listener, app, router));
        // The sender must live as long as receivers wait.
        drop(handle);
        runtime.shutdown_background();
        Ok(())
    }
}
