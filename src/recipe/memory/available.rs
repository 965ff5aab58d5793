//! The memory of this machine, and this process's share of it.

use std::fs::read_to_string;
use std::path::Path;

/// Bytes that this process may still take: what the system says, or the control group where it leaves less; `None` where
/// neither is known.
pub fn available() -> Option<usize> {
    let system = read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text, "MemAvailable:"));
    let group = read_to_string("/proc/self/cgroup").ok().and_then(|text| group(&text, Path::new("/sys/fs/cgroup")));
    [system, group].into_iter().flatten().min()
}

/// Bytes that this process holds now; 0 where it is not known.
pub fn resident() -> usize {
    let status = read_to_string("/proc/self/status").unwrap_or_default();
    meminfo(&status, "VmRSS:").unwrap_or(0)
}

/// A line of `/proc/meminfo` or `/proc/self/status`, in bytes.
fn meminfo(text: &str, key: &str) -> Option<usize> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    let kib: usize = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// What the control groups of version 2 leave, from the own one upwards.
fn group(text: &str, root: &Path) -> Option<usize> {
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let own = root.join(own);
    let number = |dir: &Path, name: &str| read_to_string(dir.join(name)).ok()?.trim().parse::<usize>().ok();
    let room = |dir: &Path| {
        let (limit, used) = (number(dir, "memory.max")?, number(dir, "memory.current")?);
        // Cached files give way.
        let stat = read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let cached = |key: &str| {
            let value = stat.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<usize>().ok());
            value.unwrap_or(0)
        };
        Some(limit.saturating_sub(used.saturating_sub(cached("inactive_file ") + cached("active_file "))))
    };
    own.ancestors().take_while(|dir| dir.starts_with(root)).filter_map(room).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_system_are_read() {
        let text = "MemTotal:       24651528 kB\nMemAvailable:   22000000 kB\nHugePages_Total:       0\n";
        assert_eq!(meminfo(text, "MemAvailable:"), Some(22_000_000 * 1024));
        assert_eq!(meminfo(text, "HugePages_Total:"), None);
        assert_eq!(meminfo(text, "MemFree:"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "70\n");
        assert_eq!(group("0::/a/b\n", dir.path()), None, "no limit");
        write("a/memory.max", "1000\n");
        write("a/memory.current", "900\n");
        assert_eq!(group("0::/a/b\n", dir.path()), Some(100));
        write("a/memory.stat", "anon 5\ninactive_file 200\nactive_file 50\n");
        assert_eq!(group("0::/a/b\n", dir.path()), Some(350));
        write("a/b/memory.max", "90\n");
        assert_eq!(group("0::/a/b\n", dir.path()), Some(20));
        assert_eq!(group("4:memory:/x\n", dir.path()), None);
    }
}
