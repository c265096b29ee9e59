#!/usr/bin/env bash
# slurm_up.sh - bring up a real Slurm cluster of N emulated nodes on this one machine.
# Needs: Debian/Ubuntu, root (MODE=netns also needs CAP_SYS_ADMIN+CAP_NET_ADMIN). No systemd, no cgroups.
#   NODES=4 GPUS=8 ./slurm_up.sh && . ./cluster/env.sh && srun -N2 hostname && ./slurm_down.sh
# Idempotent: a second call with a healthy cluster of the same settings does nothing (FORCE=1 rebuilds).
# Everything it writes is under $SLURM_LAB, plus one marked block in /etc/hosts, one bridge and NODES netns.
set -Eeuo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# ---------------------------------------------------------------- settings
SLURM_LAB=${SLURM_LAB:-$HERE/cluster}     # state directory (keep it short: unix sockets; world-traversable if non-root users submit)
NODES=${NODES:-4}                         # how many emulated nodes: ${NODE_PREFIX}1..N
NODE_PREFIX=${NODE_PREFIX:-node}
CPUS=${CPUS:-8}                           # CPUs each node claims (may exceed the machine's: config_overrides)
MEM_MB=${MEM_MB:-16000}                   # memory each node claims
GPUS=${GPUS:-8}                           # fake GPUs a node (0: none). GPU_TYPE=h100 gives them a type
GPU_TYPE=${GPU_TYPE:-}
PARTITIONS=${PARTITIONS:-main}            # space-separated; the first is the default one
PREEMPT_PARTITION=${PREEMPT_PARTITION-preempt}  # low-priority partition on the same nodes ("" for none)
PREEMPT_MODE=${PREEMPT_MODE:-REQUEUE}     # REQUEUE | CANCEL (SUSPEND,GANG comes up, but a suspended job keeps its memory: nothing gets in)
PREEMPT_GRACE=${PREEMPT_GRACE:-5}         # seconds between the warning signals and SIGKILL
MODE=${MODE:-auto}                        # netns: own IP/hostname/PIDs/etc-hosts a node | loop: 127.0.0.1, ports SLURMD_PORT+i, shared hostname | auto
SUBNET=${SUBNET:-10.77.0}                 # netns mode, /24
LAB_ID=${LAB_ID:-slab}                    # prefix of the bridge and of the netns names (<= 8 characters)
PRIVATE_TMP=${PRIVATE_TMP:-0}             # 1: every node gets its own /tmp (netns mode): catches code that takes /tmp for shared
AUTH=${AUTH:-munge}                       # munge | none (auth/none: one daemon less, any uid is believed)
KILL_WAIT=${KILL_WAIT:-5}                 # KillWait (SIGTERM to SIGKILL at time limit); real sites: 30
NODE_TIMEOUT=${NODE_TIMEOUT:-15}          # SlurmdTimeout: a silent node is DOWN after this; real sites: 300
CTLD_PORT=${CTLD_PORT:-6817}; SLURMD_PORT=${SLURMD_PORT:-6818}
STRICT_BIND=${STRICT_BIND:-1}             # netns mode: srun/salloc on this host listen only on the bridge (a wrapper in cluster/bin), not on 0.0.0.0
ETC_LINK=${ETC_LINK:-0}                   # 1: also link /etc/slurm/slurm.conf here, so that nothing needs SLURM_CONF (submitit.helpers.clean_env drops it)
EXTRA_CONF=${EXTRA_CONF:-}                # more slurm.conf lines (\n between); a key given here replaces the default line
INSTALL=${INSTALL:-1}                     # apt-get what is missing
READY_TIMEOUT=${READY_TIMEOUT:-60}
FORCE=${FORCE:-0}

say() { echo "[slurm_up $(date +%T)] $*" >&2; }
die() { say "ERROR: $*"; exit 1; }
[ "$(id -u)" = 0 ] || die "run as root"
mkdir -p "$SLURM_LAB"; SLURM_LAB=$(cd "$SLURM_LAB" && pwd)
[ ${#SLURM_LAB} -le 70 ] || die "SLURM_LAB path too long for unix sockets: $SLURM_LAB"
exec 9>"$SLURM_LAB/.lock"; flock -w 120 9 || die "another slurm_up/slurm_down holds $SLURM_LAB/.lock"

# ---------------------------------------------------------------- install
need=()
for c in slurmctld slurmd sinfo:slurm-client; do command -v "${c%%:*}" >/dev/null || need+=("${c##*:}"); done
[ "$AUTH" != munge ] || command -v munged >/dev/null || need+=(munge)
[ "$MODE" = loop ] || command -v ip >/dev/null || need+=(iproute2)
if [ ${#need[@]} -gt 0 ]; then
  [ "$INSTALL" = 1 ] || die "missing: ${need[*]}"
  say "installing ${need[*]}"
  policy=/usr/sbin/policy-rc.d; made_policy=0          # keep the packages' init scripts from starting anything
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod +x $policy; made_policy=1; }
  ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${need[@]}" >"$SLURM_LAB/apt.log" 2>&1 \
    || { tail -n 20 "$SLURM_LAB/apt.log" >&2; die "apt-get failed"; }
  [ $made_policy = 0 ] || rm -f $policy
fi

if [ "$MODE" = auto ]; then
  MODE=loop
  if ip netns add "${LAB_ID}probe" 2>/dev/null; then
    if ip link add "${LAB_ID}pr0" type bridge 2>/dev/null; then
      ip link del "${LAB_ID}pr0"
      if nsenter --net="/run/netns/${LAB_ID}probe" unshare --fork --pid --mount-proc --uts --kill-child true 2>/dev/null; then MODE=netns; fi
    fi
    ip netns del "${LAB_ID}probe"
  fi
fi
VARS="NODES NODE_PREFIX CPUS MEM_MB GPUS GPU_TYPE PARTITIONS PREEMPT_PARTITION PREEMPT_MODE PREEMPT_GRACE MODE SUBNET LAB_ID
PRIVATE_TMP AUTH KILL_WAIT NODE_TIMEOUT CTLD_PORT SLURMD_PORT STRICT_BIND ETC_LINK EXTRA_CONF"
settings=$(for v in $VARS; do printf '%s=%q\n' "$v" "${!v}"; done)
export SLURM_CONF=$SLURM_LAB/slurm.conf

# ---------------------------------------------------------------- already up?
idle_nodes() { sinfo -h -N -o '%N %T' 2>/dev/null | sort -u | grep -cE ' (idle|mixed|allocated|completing)$' || true; }
if [ -e "$SLURM_LAB/config.sh" ]; then
  if [ "$FORCE" != 1 ] && [ "$settings" = "$(cat "$SLURM_LAB/config.sh")" ] && [ "$(timeout 5 sinfo -h >/dev/null 2>&1 && idle_nodes)" = "$NODES" ]; then
    say "already up: $SLURM_LAB"; exit 0
  fi
  say "stale, unhealthy or different cluster found: taking it down first"
  SLURM_LAB=$SLURM_LAB LOCKED=1 "$HERE/slurm_down.sh"
fi
owner=/run/slurm-lab-$LAB_ID              # which state directory this LAB_ID's bridge and netns belong to
if [ "$MODE" = netns ] && ip link show "${LAB_ID}br" >/dev/null 2>&1; then
  other=$(cat "$owner" 2>/dev/null || true)
  if [ "${TAKEOVER:-0}" = 1 ] && [ -d "$other" ]; then say "taking down the cluster in $other (TAKEOVER=1)"; SLURM_LAB=$other "$HERE/slurm_down.sh"
  else die "LAB_ID=$LAB_ID is in use by ${other:-?}: SLURM_LAB=$other $HERE/slurm_down.sh, or TAKEOVER=1, or another LAB_ID and SUBNET (and NODE_PREFIX)"; fi
fi
t0=$(date +%s.%N)
trap 'rc=$?; say "failed (line $LINENO), taking down"; tail -n 5 "$SLURM_LAB"/log/*.log >&2 2>/dev/null || true; LOCKED=1 SLURM_LAB=$SLURM_LAB "$HERE/slurm_down.sh" || true; exit $rc' ERR
trap 'say "interrupted, taking down"; LOCKED=1 SLURM_LAB=$SLURM_LAB "$HERE/slurm_down.sh"; exit 130' INT TERM
rm -rf "$SLURM_LAB/log.prev"; [ ! -d "$SLURM_LAB/log" ] || mv "$SLURM_LAB/log" "$SLURM_LAB/log.prev"
mkdir -p "$SLURM_LAB"/{log,run,state,spool,munge,bin,dev}
chmod 755 "$SLURM_LAB" "$SLURM_LAB"/{log,run,munge,bin,dev}
echo "$settings" >"$SLURM_LAB/config.sh"; [ "$MODE" != netns ] || echo "$SLURM_LAB" >"$owner"

HOST=$(hostname -s)
# NoCtldInAddrAny makes slurmctld bind to the address of its *host name*, not to the one in parentheses.
# So in netns mode it has its own host name, which /etc/hosts maps to the bridge's address.
if [ "$MODE" = netns ]; then CTLD_ADDR=$SUBNET.254; CTLD_HOST=$LAB_ID-ctl; ctld=(unshare --uts bash -c 'hostname "$0"; exec "$@"' "$CTLD_HOST")
else CTLD_ADDR=127.0.0.1; CTLD_HOST=$HOST; ctld=(); fi
ctld_bind=; case "$MODE $(getent ahostsv4 "$HOST" | awk 'NR==1{print $1}')" in netns*|loop\ 127.*) ctld_bind=NoCtldInAddrAny, ;; esac
# loop mode: all nodes on 127.0.0.1, one port each (Debian builds with --enable-multiple-slurmd)
naddr() { if [ "$MODE" = netns ]; then echo "$SUBNET.$1"; else echo 127.0.0.1; fi; }

# ---------------------------------------------------------------- slurm.conf
conf() { # a default line, unless EXTRA_CONF sets the same key
  local key=${1%%=*}; printf '%b\n' "$EXTRA_CONF" | grep -qi "^$key=" || echo "$1"; }
{
  conf "ClusterName=$LAB_ID"
  conf "SlurmctldHost=$CTLD_HOST($CTLD_ADDR)"
  conf "SlurmctldPort=$CTLD_PORT"; conf "SlurmdPort=$SLURMD_PORT"
  # bind to the node's own address, not to 0.0.0.0. NoInAddrAny binds srun too: to what its host name resolves to (see the wrapper)
  if [ "$MODE" = loop ] || [ "$STRICT_BIND" = 1 ]; then conf "CommunicationParameters=${ctld_bind}NoInAddrAny"
  elif [ -n "$ctld_bind" ]; then conf "CommunicationParameters=${ctld_bind%,}"; fi
  conf "SlurmUser=root"
  if [ "$AUTH" = munge ]; then conf "AuthType=auth/munge"; conf "CredType=cred/munge"; conf "AuthInfo=socket=$SLURM_LAB/munge/socket"
  else conf "AuthType=auth/none"; conf "CredType=cred/none"; fi
  conf "ProctrackType=proctrack/linuxproc"                     # no cgroups
  conf "TaskPlugin=task/none"
  conf "JobAcctGatherType=jobacct_gather/linux"; conf "JobAcctGatherFrequency=task=10"
  conf "MpiDefault=none"
  conf "SwitchType=switch/none"
  conf "SelectType=select/cons_tres"; conf "SelectTypeParameters=CR_Core_Memory"
  conf "DefMemPerCPU=$(( MEM_MB / CPUS ))"                     # else a job without --mem takes the node's whole memory
  conf "SlurmdParameters=config_overrides"                     # believe CPUs/RealMemory below, not the hardware
  conf "PropagateResourceLimits=NONE"                          # no CAP_SYS_RESOURCE in many sandboxes
  conf "ReturnToService=2"
  conf "StateSaveLocation=$SLURM_LAB/state"; conf "SlurmdSpoolDir=$SLURM_LAB/spool/%n"
  conf "SlurmctldPidFile=$SLURM_LAB/run/slurmctld.pid"; conf "SlurmdPidFile=$SLURM_LAB/run/slurmd.%n.pid"
  conf "SlurmctldLogFile=$SLURM_LAB/log/slurmctld.log"; conf "SlurmdLogFile=$SLURM_LAB/log/slurmd.%n.log"
  conf "SlurmctldDebug=info"; conf "SlurmdDebug=info"
  conf "JobRequeue=1"
  conf "FirstJobId=$(( $(date +%s) % 60000 * 1000 + 1 ))"       # no job id twice across clusters: submitit takes an old folder's result for the new job's
  conf "MinJobAge=86400"; conf "MaxJobCount=20000"             # keep finished jobs visible to scontrol and squeue
  conf "KillWait=$KILL_WAIT"; conf "SlurmdTimeout=$NODE_TIMEOUT"; conf "InactiveLimit=0"
  conf "BatchStartTimeout=20"; conf "UnkillableStepTimeout=60"; conf "MessageTimeout=20"; conf "TCPTimeout=2"
  conf "SchedulerType=sched/backfill"
  conf "SlurmctldParameters=preempt_send_user_signal"          # at preemption also send the job's --signal (submitit's USR2)
  conf "SchedulerParameters=batch_sched_delay=0,sched_interval=5,sched_min_interval=0,bf_interval=2,bf_continue"
  conf "PriorityType=priority/basic"
  if [ -n "$PREEMPT_PARTITION" ]; then
    conf "PreemptType=preempt/partition_prio"; conf "PreemptMode=$PREEMPT_MODE"
  fi
  conf "JobCompType=jobcomp/filetxt"; conf "JobCompLoc=$SLURM_LAB/log/jobcomp.txt"
  conf "AccountingStorageType=accounting_storage/none"
  [ "$GPUS" = 0 ] || conf "GresTypes=gpu"
  [ -z "$EXTRA_CONF" ] || printf '%b\n' "$EXTRA_CONF"
  gres=; [ "$GPUS" = 0 ] || gres=" Gres=gpu:${GPU_TYPE:+$GPU_TYPE:}$GPUS"
  for i in $(seq "$NODES"); do
    echo "NodeName=$NODE_PREFIX$i NodeHostname=$([ "$MODE" = netns ] && echo "$NODE_PREFIX$i" || echo "$HOST") NodeAddr=$(naddr "$i")$([ "$MODE" = netns ] || echo " Port=$((SLURMD_PORT + i))") CPUs=$CPUS RealMemory=$MEM_MB$gres State=UNKNOWN"
  done
  def=YES
  for p in $PARTITIONS; do
    echo "PartitionName=$p Nodes=ALL Default=$def State=UP MaxTime=INFINITE DefaultTime=60 PriorityTier=10 PreemptMode=OFF"; def=NO
  done
  [ -z "$PREEMPT_PARTITION" ] || \
    echo "PartitionName=$PREEMPT_PARTITION Nodes=ALL State=UP MaxTime=INFINITE DefaultTime=60 PriorityTier=1 PreemptMode=${PREEMPT_MODE%%,*} GraceTime=$PREEMPT_GRACE"
} >"$SLURM_LAB/slurm.conf"
: >"$SLURM_LAB/cgroup.conf"
ver=$(slurmctld -V | awk '{split($2, v, "."); print v[1] * 100 + v[2]}')
[ "$ver" -lt 2311 ] || echo "CgroupPlugin=disabled" >"$SLURM_LAB/cgroup.conf"   # 23.11 and later start cgroups unasked (not tried here: Debian 12 has 22.05)
if [ "$GPUS" != 0 ]; then
  for ((g = 0; g < GPUS; g++)); do ln -sf /dev/null "$SLURM_LAB/dev/nvidia$g"; done  # must be character devices; File= gives jobs CUDA_VISIBLE_DEVICES
  echo "AutoDetect=off" >"$SLURM_LAB/gres.conf"
  echo "NodeName=${NODE_PREFIX}[1-$NODES] Name=gpu ${GPU_TYPE:+Type=$GPU_TYPE }File=$SLURM_LAB/dev/nvidia[0-$((GPUS - 1))]" >>"$SLURM_LAB/gres.conf"
  [ "$GPUS" != 1 ] || sed -i 's/nvidia\[0-0\]/nvidia0/' "$SLURM_LAB/gres.conf"
else : >"$SLURM_LAB/gres.conf"; fi

# ---------------------------------------------------------------- env.sh, for users of the cluster
rm -f "$SLURM_LAB"/bin/*
if [ "$MODE" = netns ] && [ "$STRICT_BIND" = 1 ]; then
  for c in srun salloc; do
    real=$(PATH=${PATH//"$SLURM_LAB/bin:"/} command -v $c)
    cat >"$SLURM_LAB/bin/$c" <<E
#!/bin/sh
# on a node: the real thing; on the submit host: under the host name that maps to the bridge (see NoInAddrAny in slurm_up.sh)
[ -z "\$SLURM_LAB_NODE\$SLURMD_NODENAME" ] || exec $real "\$@"
if [ "\$(id -u)" = 0 ]; then exec unshare --uts sh -c 'hostname $CTLD_HOST; exec $real "\$@"' $c "\$@"; fi
exec unshare --user --map-current-user --uts --keep-caps sh -c 'hostname $CTLD_HOST; exec $real "\$@"' $c "\$@"
E
    chmod 755 "$SLURM_LAB/bin/$c"
  done
fi
cat >"$SLURM_LAB/env.sh" <<E
export SLURM_CONF=$SLURM_LAB/slurm.conf SLURM_LAB=$SLURM_LAB
case ":\$PATH:" in *":$SLURM_LAB/bin:"*) ;; *) export PATH=$SLURM_LAB/bin:\$PATH ;; esac
E

if [ "$ETC_LINK" = 1 ]; then
  [ ! -e /etc/slurm/slurm.conf ] || [ -L /etc/slurm/slurm.conf ] || die "/etc/slurm/slurm.conf is a real file: not replacing it"
  mkdir -p /etc/slurm; ln -sfn "$SLURM_LAB/slurm.conf" /etc/slurm/slurm.conf
fi

# ---------------------------------------------------------------- /etc/hosts, network
begin="# >>> $LAB_ID $SLURM_LAB" ; end="# <<< $LAB_ID $SLURM_LAB"
{ echo "$begin"; for i in $(seq "$NODES"); do echo "$(naddr "$i") $NODE_PREFIX$i"; done
  [ "$MODE" != netns ] || echo "$CTLD_ADDR $CTLD_HOST"; echo "$end"; } | tee "$SLURM_LAB/hosts.block" >>/etc/hosts || say "WARNING: /etc/hosts is not writable: node names will not resolve"
{ echo "127.0.0.1 localhost"; cat "$SLURM_LAB/hosts.block"; } >"$SLURM_LAB/hosts"   # what the nodes have for /etc/hosts
if [ "$MODE" = netns ]; then
  ip link add "${LAB_ID}br" type bridge; ip addr add "$CTLD_ADDR/24" dev "${LAB_ID}br"; ip link set "${LAB_ID}br" up
  for i in $(seq "$NODES"); do
    ns=$LAB_ID-$NODE_PREFIX$i
    ip netns add "$ns"
    ip link add "${LAB_ID}v$i" type veth peer name eth0 netns "$ns"
    ip link set "${LAB_ID}v$i" master "${LAB_ID}br" up
    ip -n "$ns" addr add "$(naddr "$i")/24" dev eth0
    ip -n "$ns" link set lo up; ip -n "$ns" link set eth0 up; ip -n "$ns" route add default via "$CTLD_ADDR"
  done
fi

# ---------------------------------------------------------------- daemons
bg() { # NAME CMD...: start detached, remember pid + start time (so that slurm_down never kills a recycled pid)
  local name=$1; shift
  setsid "$@" >"$SLURM_LAB/log/$name.out" 2>&1 </dev/null 9>&- & local pid=$!
  echo "$pid $(awk '{print $22}' "/proc/$pid/stat")" >"$SLURM_LAB/run/$name.lab"
}
if [ "$AUTH" = munge ]; then
  [ -s "$SLURM_LAB/munge/key" ] || { (umask 077; head -c 128 /dev/urandom >"$SLURM_LAB/munge/key"); }
  chown root "$SLURM_LAB/munge/key"; chmod 400 "$SLURM_LAB/munge/key"
  bg munged munged --foreground --force --key-file="$SLURM_LAB/munge/key" --socket="$SLURM_LAB/munge/socket" \
    --pid-file="$SLURM_LAB/run/munged.pid" --log-file="$SLURM_LAB/log/munged.log" --seed-file="$SLURM_LAB/munge/seed"
  for _ in $(seq 100); do [ -S "$SLURM_LAB/munge/socket" ] && munge -n -S "$SLURM_LAB/munge/socket" >/dev/null 2>&1 && break; sleep 0.05; done
  munge -n -S "$SLURM_LAB/munge/socket" | unmunge -S "$SLURM_LAB/munge/socket" >/dev/null
fi
printf '%q ' "${ctld[@]}" slurmctld -D -f "$SLURM_CONF" >"$SLURM_LAB/run/slurmctld.cmd"
bg slurmctld "${ctld[@]}" slurmctld -D -i -f "$SLURM_CONF"
for i in $(seq "$NODES"); do LOCKED=1 SLURM_LAB=$SLURM_LAB "$HERE/slurm_node.sh" start "$NODE_PREFIX$i"; done

# ---------------------------------------------------------------- ready?
deadline=$(( $(date +%s) + READY_TIMEOUT ))
until [ "$(timeout 5 sinfo -h >/dev/null 2>&1 && idle_nodes)" = "$NODES" ]; do
  read -r ctld _ <"$SLURM_LAB/run/slurmctld.lab"
  kill -0 "$ctld" 2>/dev/null && grep -q '^State:.[RSDI]' "/proc/$ctld/status" || { tail -n 5 "$SLURM_LAB/log/slurmctld.out" >&2; say "slurmctld died"; false; }
  [ "$(date +%s)" -lt $deadline ] || { sinfo -N -l >&2 || true; say "nodes not idle after ${READY_TIMEOUT}s"; false; }
  sleep 0.1
done
trap - ERR
say "up in $(awk -v a="$t0" -v b="$(date +%s.%N)" 'BEGIN{printf "%.1f", b-a}') s: $NODES x (CPUS=$CPUS GPUS=$GPUS) mode=$MODE auth=$AUTH; use:  . $SLURM_LAB/env.sh"
