//! Messages whole, descriptors counted, names long and short.

use std::{fs::File, os::fd::AsFd};

use super::*;

#[test]
fn messages_keep_their_borders_and_the_end_is_told() {
    let (one, other) = pair().unwrap();
    send(one.as_fd(), b"first", &[]).unwrap();
    send(one.as_fd(), b"second", &[]).unwrap();
    drop(one);
    let mut buffer = [0; 64];
    assert_eq!(receive(other.as_fd(), &mut buffer, 0).unwrap().0, 5);
    assert_eq!(receive(other.as_fd(), &mut buffer, 0).unwrap().0, 6);
    assert_eq!(receive(other.as_fd(), &mut buffer, 0).unwrap().0, 0);
    assert_eq!(send(other.as_fd(), b"x", &[]).unwrap_err().raw_os_error(), Some(libc::EPIPE));
    assert_eq!(send(other.as_fd(), b"", &[]).unwrap_err().raw_os_error(), Some(libc::EINVAL));
}

#[test]
fn descriptors_arrive_in_order_and_close_on_exec() {
    let (one, other) = pair().unwrap();
    let files: Vec<File> = ["/", "/proc", "/dev/null"].map(|path| File::open(path).unwrap()).into();
    let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
    send(one.as_fd(), b"x", &fds).unwrap();
    let (read, got) = receive(other.as_fd(), &mut [0; 8], MAX_FDS).unwrap();
    assert_eq!((read, got.len()), (1, 3));
    for (sent, got) in files.iter().zip(got) {
        let (sent, got) = (sent.metadata().unwrap(), (File::from(got)));
        assert_eq!(fcntl(&got, FcntlArg::F_GETFD).unwrap(), libc::FD_CLOEXEC);
        use std::os::unix::fs::MetadataExt;
        assert_eq!((sent.dev(), sent.ino()), (got.metadata().unwrap().dev(), got.metadata().unwrap().ino()));
    }
}

#[test]
fn as_many_descriptors_as_the_kernel_allows_fit() {
    let (one, other) = pair().unwrap();
    let null = File::open("/dev/null").unwrap();
    send(one.as_fd(), b"x", &[null.as_fd(); MAX_FDS]).unwrap();
    assert_eq!(receive(other.as_fd(), &mut [0; 8], MAX_FDS).unwrap().1.len(), MAX_FDS);
    assert!(send(one.as_fd(), b"x", &[null.as_fd(); MAX_FDS + 1]).is_err());
}

#[test]
fn what_does_not_fit_is_an_error_and_nothing_leaks() {
    let (one, other) = pair().unwrap();
    let (watched, end) = nix::unistd::pipe().unwrap();
    let too_much = |error: io::Error| assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));

    send(one.as_fd(), b"long", &[end.as_fd()]).unwrap();
    too_much(receive(other.as_fd(), &mut [0; 3], 1).unwrap_err());
    send(one.as_fd(), b"x", &[end.as_fd(), end.as_fd(), end.as_fd()]).unwrap();
    too_much(receive(other.as_fd(), &mut [0; 3], 2).unwrap_err());
    send(one.as_fd(), b"x", &[end.as_fd()]).unwrap();
    too_much(receive(other.as_fd(), &mut [0; 3], 0).unwrap_err());

    // Every copy that travelled is closed: with ours gone, the pipe has no writer left.
    drop(end);
    assert_eq!(nix::unistd::read(&watched, &mut [0; 1]).unwrap(), 0);
}

#[test]
fn a_socket_is_reached_under_a_path_of_any_length() {
    let root = tempfile::tempdir().unwrap();
    let deep = root.path().join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&deep).unwrap();
    let dir = File::open(&deep).unwrap();
    assert_eq!(connect_at(dir.as_fd(), "a.sock").unwrap_err().raw_os_error(), Some(libc::ENOENT));

    let first = listen_at(dir.as_fd(), "a.sock", 0o600, 8).unwrap();
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(deep.join("a.sock").metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let client = connect_at(dir.as_fd(), "a.sock").unwrap();
    let server = accept(first.as_fd()).unwrap();
    send(client.as_fd(), b"hello", &[]).unwrap();
    assert_eq!(receive(server.as_fd(), &mut [0; 16], 0).unwrap().0, 5);
    let peer = peer_credentials(server.as_fd()).unwrap();
    assert_eq!((peer.pid, peer.uid), (std::process::id() as i32, nix::unistd::geteuid().as_raw()));

    assert_eq!(receive(client.as_fd(), &mut [0; 16], 0).unwrap_err().kind(), io::ErrorKind::WouldBlock);

    // A newcomer takes the name over in one step.
    let second = listen_at(dir.as_fd(), "a.sock", 0o600, 8).unwrap();
    drop(first);
    connect_at(dir.as_fd(), "a.sock").unwrap();
    accept(second.as_fd()).unwrap();
    drop(second);
    assert_eq!(connect_at(dir.as_fd(), "a.sock").unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
    unlink_at(dir.as_fd(), "a.sock").unwrap();
    unlink_at(dir.as_fd(), "a.sock").unwrap();
    assert_eq!(std::fs::read_dir(&deep).unwrap().count(), 0);
}

#[test]
fn nobody_waits_to_be_accepted_where_the_queue_is_full() {
    let root = tempfile::tempdir().unwrap();
    let dir = File::open(root.path()).unwrap();
    let _listener = listen_at(dir.as_fd(), "a.sock", 0o600, 1).unwrap();
    let results: Vec<_> = (0..4).map(|_| connect_at(dir.as_fd(), "a.sock")).collect();
    assert!(results[0].is_ok());
    assert_eq!(results[3].as_ref().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_name_that_does_not_fit_an_address_is_refused() {
    let dir = File::open("/tmp").unwrap();
    assert_eq!(connect_at(dir.as_fd(), &"n".repeat(100)).unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    assert!(connect_at(dir.as_fd(), "../x").is_err());
}

#[test]
fn a_non_blocking_socket_says_when_nothing_is_there() {
    let (one, _other) = pair().unwrap();
    set_nonblocking(one.as_fd()).unwrap();
    let nothing = receive(one.as_fd(), &mut [0; 8], 4).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn a_large_buffer_takes_a_large_message() {
    let (one, other) = pair().unwrap();
    let message = vec![7; 150_000];
    set_send_buffer(one.as_fd(), 512 * 1024).unwrap();
    set_timeout(one.as_fd(), Duration::from_secs(5)).unwrap();
    send(one.as_fd(), &message, &[]).unwrap();
    let mut buffer = vec![0; 200_000];
    assert_eq!(receive(other.as_fd(), &mut buffer, 0).unwrap().0, message.len());
}
