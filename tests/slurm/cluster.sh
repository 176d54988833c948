#!/bin/bash
# A real SLURM with accounting on one machine, for tests: Debian 12 (SLURM 22.05), root, no systemd needed.
#
#   tests/slurm/cluster.sh start     install what is missing, bring everything up, run a job through the whole path
#   tests/slurm/cluster.sh status    what is up; exit code 3 if a daemon is down or the controller does not answer
#   tests/slurm/cluster.sh stop      cancel all jobs and end the daemons; job ids and accounting survive
#   tests/slurm/cluster.sh wipe      stop, and remove the state, the configuration and the names in /etc/hosts
#
# Nodes       gpu1 and gpu2, each with 32 CPUs and 8 pretend GPUs: two slurmd on this one host
# Partitions  gpu   gpu1, the default
#             pair  gpu1 and gpu2, for jobs on several nodes
#             low   gpu1, at most 7 days; its jobs are requeued when one in gpu or pair needs their place
# Accounts    lab      root's default
#             expired  known to root, but its jobs are refused; any other account is refused as well
#
# Everything is kept in FGASEG_SLURM_DIR (/tmp/fgaseg-slurm), except for /etc/slurm/*.conf and a line in /etc/hosts.
# `start` may be run at any time: what is up stays up, unless the configuration has changed.
set -uo pipefail
umask 022 # the database runs as another user

state=$(realpath -m "${FGASEG_SLURM_DIR:-/tmp/fgaseg-slurm}")
cluster=fgaseg
nodes=(gpu1 gpu2)
cpus=32 memory_mb=1000000 gpus=8 # per node; more than the machine has, so that requests of a real size are accepted
ctld_port=6817 dbd_port=6819 database_port=6820 node_port=6821 # and the next one for the second node
mark='# written by tests/slurm/cluster.sh'
host=$(hostname -s)

export PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin:$PATH
# a job's own variables would override the options given here, and reach every later job through slurmd
unset "${!SLURM@}" "${!SBATCH@}" "${!SRUN@}" "${!SQUEUE@}" "${!SACCT@}" "${!SINFO@}" "${!SCANCEL@}"

say() { echo "[slurm] $*" >&2; }

fail() { # fail MESSAGE [LOG]: say what went wrong and how the log ends
    say "FAILED: $1"
    [[ -s ${2:-} ]] && { say "the end of $2:"; tail -n 15 "$2" >&2; }
    exit 1
}

within() { timeout --kill-after=2 "$@"; } # within SECONDS COMMAND...

await() { # await SECONDS COMMAND...: repeat the command until it succeeds; `answer` is what it said last
    local until=$((SECONDS + $1))
    shift
    until answer=$("$@" 2>&1); do
        ((SECONDS < until)) || return 1
        sleep 0.2
    done
}

# --- daemons: known by the pid files in the state directory, and never looked for by name ---

program() { echo "${1%%-*}"; } # slurmd-gpu1 runs slurmd

alive() { # and not a zombie; the name is compared, since another process may have got the number by now
    local pid
    pid=$(cat "$state/$1.pid" 2>/dev/null) && [[ $(cat "/proc/$pid/stat" 2>/dev/null) == "$pid ($(program "$1")) "[!ZX]* ]]
}

launch() { # launch DAEMON COMMAND...: one that detaches itself and writes its pid file
    alive "$1" && return
    local daemon=$1
    shift
    # the lock must not be inherited, nor the caller's output, whose reader would wait for the daemon's end
    within 30 "$@" </dev/null &>"$state/log/$daemon.start" 9>&- || fail "$daemon does not start" "$state/log/$daemon.start"
    await 10 alive "$daemon" || fail "$daemon has ended" "$state/log/$daemon.log"
    launched+=("$daemon")
}

answers() { # answers DAEMON SECONDS COMMAND...: wait until the command succeeds, but no longer than the daemon lives
    local daemon=$1 seconds=$2
    shift 2
    if ! await "$seconds" eval "! alive $daemon || $(printf '%q ' "$@")" || ! alive "$daemon"; then
        fail "$daemon does not answer${answer:+: $answer}" "$state/log/$daemon.log"
    fi
}

end() { # end DAEMON [SECONDS]: SIGKILL only if SIGTERM has not ended it in time
    if alive "$1"; then
        local pid
        pid=$(<"$state/$1.pid")
        kill "$pid"
        if ! await "${2:-20}" eval "! alive $1"; then
            say "$1 ($pid) does not end: killed"
            kill -KILL "$pid"
        fi
    fi
    rm -f "$state/$1.pid"
}

# --- installation and configuration ---

install_packages() {
    local package missing=() policy=/usr/sbin/policy-rc.d log=$state/log/apt.log
    for package in munge slurm-wlm slurm-client slurmdbd mariadb-server; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    ((${#missing[@]})) || return 0
    say "installing ${missing[*]}"
    if [[ ! -e $policy ]]; then # else the packages would start services of their own
        printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    export DEBIAN_FRONTEND=noninteractive
    within 120 apt-get -q update &>"$log" 9>&- || fail "apt-get update" "$log"
    within 600 apt-get -q install -y --no-install-recommends "${missing[@]}" &>>"$log" 9>&- || fail "apt-get install" "$log"
}

write() { # write FILE MODE: standard input, below the mark; sets `changed` if the file was different
    local text
    text=$(echo "$mark" && cat)
    if [[ $text != "$(cat "$1" 2>/dev/null)" ]]; then
        changed=yes
        (umask 077 && echo "$text" >"$1") || fail "cannot write $1"
    fi
    chmod "$2" "$1"
}

refuse_foreign_cluster() { # a machine's true SLURM must never be reconfigured
    local file
    for file in slurm slurmdbd gres cgroup; do
        file=/etc/slurm/$file.conf
        [[ ! -e $file ]] || head -n 1 $file | grep -qxF "$mark" ||
            fail "$file is not of this script: is this machine part of a cluster?"
    done
    if ! alive slurmctld && within 10 scontrol ping &>/dev/null; then
        fail "another controller answers, with its state in $(sed -n 's/^StateSaveLocation=//p' /etc/slurm/slurm.conf)"
    fi
}

configure() {
    local index
    mkdir -p /etc/slurm "$state"/{save,spool}
    for ((index = 0; index < gpus; index++)); do # like /dev/null: slurmd only wants a device file to exist
        [[ -e $state/gpu$index ]] || mknod "$state/gpu$index" c 1 3 2>/dev/null || touch "$state/gpu$index"
    done
    # A rebuilt cluster must not give out an earlier one's job ids: submitit would read the result that the earlier job has
    # left. Seconds are larger than any id given out before, unless there was more than one job per second.
    [[ -s $state/first_job_id ]] || echo $(($(date +%s) % 60000000)) >"$state/first_job_id"

    write /etc/slurm/slurmdbd.conf 600 <<CONF
AuthType=auth/munge
DbdHost=localhost
DbdPort=$dbd_port
SlurmUser=root
PidFile=$state/slurmdbd.pid
LogFile=$state/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$database_port
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
    write /etc/slurm/slurm.conf 644 <<CONF
ClusterName=$cluster
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job may start again after this many seconds (default 120)
AuthInfo=cred_expire=5
StateSaveLocation=$state/save
SlurmctldPidFile=$state/slurmctld.pid
SlurmctldLogFile=$state/log/slurmctld.log
# %n is the node's name: each slurmd needs files of its own
SlurmdSpoolDir=$state/spool/%n
SlurmdPidFile=$state/slurmd-%n.pid
SlurmdLogFile=$state/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
# a node that comes back is used again, whatever it was down for
ReturnToService=2
FirstJobId=$(<"$state/first_job_id")
# jobs start at once, instead of within 3 to 60 s
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=5,bf_interval=3
# ended jobs stay known to scontrol for an hour
MinJobAge=3600
# seconds from SIGTERM to SIGKILL for a job that is cancelled, requeued or out of time (default 30)
KillWait=10
# what can never run is refused by sbatch, instead of waiting for ever
EnforcePartLimits=ALL
# a job in "low" gets the signal that it asked for (submitit: USR2) at once, and is requeued after its partition's GraceTime
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# accounting; the associations are enforced, so that a wrong account is refused
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort=$dbd_port
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=10
# the nodes: believed, though the machine has less
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName=DEFAULT CPUs=$cpus RealMemory=$memory_mb Gres=gpu:$gpus Feature=a100 State=UNKNOWN
NodeName=${nodes[0]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$node_port
NodeName=${nodes[1]} NodeHostname=$host NodeAddr=127.0.0.1 Port=$((node_port + 1))
PartitionName=DEFAULT State=UP MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=gpu Nodes=${nodes[0]} Default=YES
PartitionName=pair Nodes=${nodes[0]},${nodes[1]}
PartitionName=low Nodes=${nodes[0]} MaxTime=7-00:00:00 PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
CONF
    # slurmd loads a cgroup plugin though nothing here uses it; v1 needs neither a mounted tree nor systemd
    write /etc/slurm/cgroup.conf 644 <<CONF
CgroupAutomount=no
CgroupPlugin=cgroup/v1
CONF
    write /etc/slurm/gres.conf 644 <<CONF
AutoDetect=off
NodeName=${nodes[0]},${nodes[1]} Name=gpu File=$state/gpu[0-$((gpus - 1))]
CONF
    # as on a true cluster, a distributed job can find its first node by name
    getent hosts "${nodes[@]}" >/dev/null || echo "127.0.0.1 ${nodes[*]} $mark" >>/etc/hosts
}

# --- start ---

start_munge() { # authentication, without which no SLURM command works; one that runs already will do
    local folder log=$state/log/munged.log
    munge -n 2>/dev/null | unmunge &>/dev/null && return
    for folder in /run/munge /var/lib/munge /var/log/munge /etc/munge; do
        mkdir -p $folder && chown munge: $folder
    done
    chmod 755 /run/munge # the folder of the socket that everyone uses
    if [[ ! -s /etc/munge/munge.key ]]; then
        (umask 077 && head -c 128 /dev/urandom >/etc/munge/munge.key) && chown munge: /etc/munge/munge.key
    fi
    within 20 runuser -u munge -- munged </dev/null &>"$log" 9>&- || fail "munged does not start" "$log"
    await 10 eval 'munge -n | unmunge' || fail "munged does not answer: $answer" "$log"
    cp /run/munge/munged.pid "$state/munged.pid" # so that `stop` ends it, since it was started here
}

sql() { within 30 mariadb --no-defaults --user=root --socket="$state/database/socket"; } # statements from standard input

start_database() {
    local data=$state/database log=$state/log/mariadbd.log
    alive mariadbd && return
    if [[ ! -d $data ]]; then # made beside and then moved, so that a half-made one is never taken for whole
        rm -rf "$data.new"
        mkdir "$data.new" && chown mysql: "$data.new"
        within 90 mariadb-install-db --no-defaults --user=mysql --datadir="$data.new" --skip-test-db &>"$log" 9>&- ||
            fail "mariadb-install-db" "$log"
        mv "$data.new" "$data"
    fi
    # it does not detach itself; in a session of its own, Ctrl-C at the terminal does not reach it
    setsid mariadbd --no-defaults --user=mysql --datadir="$data" --socket="$data/socket" --pid-file="$data/pid" \
        --bind-address=127.0.0.1 --port=$database_port --innodb-buffer-pool-size=128M --innodb-lock-wait-timeout=900 \
        --innodb-flush-log-at-trx-commit=2 </dev/null &>"$log" 9>&- &
    echo $! >"$state/mariadbd.pid"
    await 10 alive mariadbd || fail "mariadbd does not start" "$log" # until then the process still runs this script, or setsid
    answers mariadbd 40 sql </dev/null
    sql <<SQL || fail "cannot create the accounting database"
CREATE DATABASE IF NOT EXISTS slurm_acct_db;
CREATE USER IF NOT EXISTS 'slurm'@'localhost' IDENTIFIED BY 'slurm';
GRANT ALL ON slurm_acct_db.* TO 'slurm'@'localhost';
SQL
    launched+=(mariadbd)
}

account() { # account ENTITY NAME OPTION...: add it to the accounting, unless it is there
    local entity=$1 name=$2 output
    shift 2
    output=$(within 30 sacctmgr -i add "$entity" "$name" "$@" 2>&1) ||
        [[ $output == *"Nothing new added"* || $output == *"already exists"* ]] ||
        fail "sacctmgr add $entity $name: $output"
}

start_accounting() {
    launch slurmdbd slurmdbd
    answers slurmdbd 40 within 5 sacctmgr -n show cluster
    account cluster $cluster
    account account lab cluster=$cluster Description=lab Organization=lab
    account account expired cluster=$cluster Description=expired Organization=lab
    account user root cluster=$cluster account=lab DefaultAccount=lab
    account user root cluster=$cluster account=expired MaxSubmitJobs=0
}

all_nodes_up() { # without a trailing mark, which would say that the node does not respond or is drained
    local states
    states=$(within 5 sinfo -hN -p pair -o %T) && ! grep -qvxE 'idle|mixed|allocated|completing' <<<"$states"
}

start_nodes() {
    local node
    launch slurmctld slurmctld
    answers slurmctld 30 within 5 scontrol ping
    for node in "${nodes[@]}"; do
        mkdir -p "$state/spool/$node"
        launch "slurmd-$node" slurmd -N "$node"
    done
    await 20 all_nodes_up && return
    for node in "${nodes[@]}"; do # set aside, as after a job that could not be killed
        within 10 scontrol update nodename="$node" state=resume &>/dev/null
    done
    await 10 all_nodes_up || fail "a node is not up: $(within 5 sinfo -hN -p pair -o '%N %T %E')"
}

job_state() { within 5 sacct -nXP -j "$1" -o State; }

self_test() { # one job on all GPUs, from sbatch to sacct
    local job tasks out=$state/log/self_test.log
    # shellcheck disable=SC2016 # the tasks expand it
    local script='srun --kill-on-bad-exit=1 bash -c "echo \$SLURMD_NODENAME \$CUDA_VISIBLE_DEVICES"'
    job=$(within 20 sbatch --parsable -D / -J self_test -p pair -N2 --ntasks-per-node=4 --gpus-per-node=$gpus -t 1 -o "$out" \
        --wrap "$script") || fail "sbatch refuses the test job"
    await 40 eval "job_state $job | grep -vE 'PENDING|RUNNING'" ||
        fail "test job $job has not ended, or sacct does not know it" "$out"
    [[ $answer == COMPLETED ]] || fail "test job $job: $answer" "$out"
    tasks=$(grep -cE "^(${nodes[0]}|${nodes[1]}) $(seq -s, 0 $((gpus - 1)))$" "$out")
    ((tasks == 8)) || fail "test job $job: $tasks of 8 tasks saw $gpus GPUs" "$out"
    say "job $job went through: 8 tasks on ${nodes[*]}, COMPLETED in sacct"
}

start() {
    changed=no launched=()
    mkdir -p "$state/log"
    install_packages
    refuse_foreign_cluster
    configure
    if [[ $changed == yes ]] && alive slurmctld; then
        say "the configuration has changed: restarting"
        stop_slurm
    fi
    start_munge
    start_database
    start_accounting
    start_nodes
    if queue_empty; then
        self_test
    else # it would wait for the jobs' end, and have those in "low" requeued
        say "jobs are in the queue, so no test job was run"
    fi
    say "up after $SECONDS s (started: ${launched[*]:-nothing, all was up})"
}

# --- stop and status ---

daemons=(mariadbd slurmdbd slurmctld "${nodes[@]/#/slurmd-}")

queue_empty() {
    local jobs
    jobs=$(within 10 squeue -h) && [[ -z $jobs ]]
}

stop_slurm() {
    if alive slurmctld && within 10 scontrol ping &>/dev/null; then # else jobs would live on without their slurmd
        within 20 scancel --user=root --state=PENDING # first, lest they start in the place of the running ones
        within 20 scancel --user=root
        await 30 queue_empty || say "some jobs have not ended"
    fi
    local node
    for node in "${nodes[@]}"; do end "slurmd-$node"; done
    end slurmctld
    end slurmdbd
}

stop() {
    stop_slurm
    end mariadbd 40
    end munged
}

wipe() {
    local file
    stop
    if grep -sqxF "StateSaveLocation=$state/save" /etc/slurm/slurm.conf; then # else it is another cluster's configuration
        for file in /etc/slurm/{slurm,slurmdbd,gres,cgroup}.conf; do
            if grep -sqxF "$mark" "$file"; then rm -f "$file"; fi
        done
        file=$(grep -vF "$mark" /etc/hosts)
        echo "$file" >/etc/hosts # in place, since in a container the file cannot be replaced
    fi
    rm -rf "$state"
}

status() {
    local daemon down=0
    for daemon in "${daemons[@]}"; do
        if alive "$daemon"; then echo "$daemon up ($(<"$state/$daemon.pid"))"; else echo "$daemon DOWN" && down=3; fi
    done
    within 10 scontrol ping 2>&1 || down=3
    ((down)) && return $down
    within 10 sinfo -N -o '%N %P %T %c CPUs %m MB %G %E'
    within 10 squeue
}

# --- the command ---

exclusive() { # one at a time: others wait for it
    [[ $EUID == 0 ]] || fail "must be run as root"
    exec 9>"$state.lock" || fail "cannot write $state.lock"
    flock --timeout 180 9 || fail "another $0 is still at work"
    "$@"
}

case "${1:-}" in
start | stop | wipe) exclusive "$1" ;;
status) status ;;
*)
    echo "usage: $0 start|stop|status|wipe" >&2
    exit 2
    ;;
esac
