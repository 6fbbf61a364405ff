/* Holds a pod's namespaces: sleeps until it is told to end, and reaps what is left to it in a shared PID namespace. */
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static void end(int signal) {
    (void)signal;
    _exit(0);
}

int main(void) {
    struct sigaction leave = {.sa_handler = end};
    struct sigaction reap = {.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDSTOP | SA_NOCLDWAIT};
    sigaction(SIGINT, &leave, 0);
    sigaction(SIGTERM, &leave, 0);
    sigaction(SIGCHLD, &reap, 0);
    for (;;) pause();
}
