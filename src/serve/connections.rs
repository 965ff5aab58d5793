//! Connections: opened within bounds, and closed where a client keeps one without using it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::routes::App;
use super::server::Phase;

/// Bytes of a request's head, and of what is read ahead.
const BUFFER: usize = 64 << 10;
/// Wait where no connection can be opened, for want of file descriptors.
const BREATHER: Duration = Duration::from_millis(100);

/// Serves until the phase is no longer [`Phase::Running`], and then until all connections are closed, time is up, or the
/// phase is [`Phase::Stopped`].
pub(super) async fn serve(listener: TcpListener, app: Arc<App>, router: Router) {
    let places = Arc::new(Semaphore::new(app.settings.limits.connections));
    let mut phase = app.phase.clone();
    let mut tasks = JoinSet::new();
    loop {
        let accepted = async {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return None };
            match listener.accept().await {
                Ok((stream, _)) => Some((place, stream)),
                Err(_) => {
                    tokio::time::sleep(BREATHER).await;
                    None
                }
            }
        };
        let accepted = tokio::select! {
            _ = phase.wait_for(|phase| *phase != Phase::Running) => break,
            accepted = accepted => accepted,
        };
        while tasks.try_join_next().is_some() {}
        if let Some((place, stream)) = accepted {
            let (app, router) = (Arc::clone(&app), router.clone());
            tasks.spawn(async move {
                app.metrics.connection(true);
                connection(stream, &app, router).await;
                app.metrics.connection(false);
                drop(place);
            });
        }
    }
    drop(listener);
    let all = async { while tasks.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = tokio::time::sleep(app.settings.grace) => {}
        _ = phase.wait_for(|phase| *phase == Phase::Stopped) => {}
    }
}

async fn connection(stream: TcpStream, app: &App, router: Router) {
    // Streams are many small pieces, each of which is to be seen at once.
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(Patient::new(stream, app.settings.write_timeout));
    let mut phase: watch::Receiver<Phase> = app.phase.clone();
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.settings.head_timeout)
        .max_buf_size(BUFFER)
        .serve_connection(io, TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let stopping = async {
        let _ = phase.wait_for(|phase| *phase != Phase::Running).await;
    };
    // What goes wrong on a connection is its client's affair, and is seen in the metrics.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = stopping => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// A connection that breaks where its client does not read for too long.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, stalled: None }
    }

    /// Passes a write's outcome on, and counts the time since the last one that got further.
    fn watch<T>(&mut self, context: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let deadline = Instant::now() + self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        match stalled.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.watch(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
