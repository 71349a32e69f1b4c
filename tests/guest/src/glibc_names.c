/*
 * What Rust's standard library asks of glibc and musl does not have, for the guest program that is linked against
 * musl: the standard library of the machine's own target is built for glibc, and is all of it that rustc brings here.
 * The functions and structures of sockets, files, threads and memory are the same in both.
 */
struct dl_find_object;

const char *gnu_get_libc_version(void);
const char *gnu_get_libc_version(void)
{
    return "2.36";
}

/* To read resolv.conf(5) again after a failure: musl reads it each time. */
int __res_init(void);
int __res_init(void)
{
    return 0;
}

/* Asked by libgcc before it unwinds the stack: nothing is found, so a panic ends the program with its message. */
int _dl_find_object(void *pc, struct dl_find_object *found);
int _dl_find_object(void *pc, struct dl_find_object *found)
{
    (void)pc;
    (void)found;
    return -1;
}
