/*
 * A level 1 stack, built on loop.c, that needs a system call beyond the sentry's base, asks for it, and makes it.
 *
 *     cc -shared -fPIC -I crates/netgraft-abi/include -I tests/plugins -o libwider.so tests/plugins/wider.c
 */
#define _GNU_SOURCE
#define LOOP_AS_A_PART
#include "loop.c"

#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

static const struct netgraft_rule RULES[] = { { .number = SYS_uname } };
static struct netgraft_stack_v1 table;

static int32_t init(void *self, const char *text, size_t text_length, const int32_t *fds, size_t fd_count, uint64_t now,
                    char *why, size_t capacity)
{
    struct utsname name;
    if (syscall(SYS_uname, &name) != 0) {
        snprintf(why, capacity, "uname is refused");
        return NETGRAFT_E_IO;
    }
    return loop_init(self, text, text_length, fds, fd_count, now, why, capacity);
}

const struct netgraft_stack_v1 *netgraft_stack(uint32_t requested)
{
    (void)requested;
    table = LOOP;
    table.name = "wider";
    table.rules = RULES;
    table.rule_count = 1;
    table.init = init;
    return &table;
}
