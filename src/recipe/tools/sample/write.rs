//! A file that appears when it is whole.

use crate::recipe::RecipeError;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// A new file, written beside its place and renamed to it; dropped before that, it leaves nothing.
pub(in crate::recipe::tools) struct NewFile {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
}

impl NewFile {
    /// Starts the file; missing folders are made.
    ///
    /// # Errors
    /// [`RecipeError::OutputTaken`] where something stands at its place, [`RecipeError::Io`].
    pub(in crate::recipe::tools) fn create(path: &Path) -> Result<Self, RecipeError> {
        if path.symlink_metadata().is_ok() {
            return Err(RecipeError::OutputTaken(path.to_owned()));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder).map_err(RecipeError::io(folder))?;
        let mut builder = tempfile::Builder::new();
        builder.prefix(".partial-");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            // As any other file has it; the system takes off what the user's mask says.
            builder.permissions(std::fs::Permissions::from_mode(0o666));
        }
        let file = builder.tempfile_in(folder).map_err(RecipeError::io(path))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file) })
    }

    /// Puts the file into its place.
    ///
    /// # Errors
    /// [`RecipeError::OutputTaken`] where something has been put there since, [`RecipeError::Io`].
    pub(in crate::recipe::tools) fn finish(self) -> Result<(), RecipeError> {
        let Self { path, file } = self;
        let file = file.into_inner().map_err(|error| RecipeError::io(&path)(error.into_error()))?;
        file.as_file().sync_all().map_err(RecipeError::io(&path))?;
        file.persist_noclobber(&path).map(drop).map_err(|error| match error.error.kind() {
            io::ErrorKind::AlreadyExists => RecipeError::OutputTaken(path.clone()),
            _ => RecipeError::io(&path)(error.error),
        })
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
