#!/usr/bin/env bash
# slurm_down.sh - stop and remove everything slurm_up.sh started for $SLURM_LAB (and nothing else). Idempotent.
# KEEP=1 keeps slurm.conf, logs and state for a look; KEEP=0 (default) keeps only log/.
set -Euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
SLURM_LAB=${SLURM_LAB:-$HERE/cluster}
[ -d "$SLURM_LAB" ] || exit 0
SLURM_LAB=$(cd "$SLURM_LAB" && pwd)
if [ "${LOCKED:-0}" != 1 ]; then exec 9>"$SLURM_LAB/.lock"; flock -w 120 9 || exit 1; fi
[ -e "$SLURM_LAB/config.sh" ] || exit 0
. "$SLURM_LAB/config.sh"
export SLURM_CONF=$SLURM_LAB/slurm.conf
alive() { # only the very process that was recorded (pid and start time), and not a zombie
  local pid start s; read -r pid start <"$1" || return 1
  s=$(awk '{print $3, $22}' "/proc/$pid/stat" 2>/dev/null) || return 1
  [ "${s#* }" = "$start" ] && [ "${s%% *}" != Z ] && echo "$pid"; }
stop() { # record [signal]
  local pid n; [ -s "$1" ] || return 0
  if pid=$(alive "$1"); then
    kill "-${2:-TERM}" "$pid" 2>/dev/null
    for n in $(seq 100); do alive "$1" >/dev/null || break; sleep 0.05; done
    if alive "$1" >/dev/null; then kill -KILL "$pid" 2>/dev/null; fi
  fi
  rm -f "$1"; }
# 1 the controller first: nothing gets requeued or restarted while nodes go away
if [ "${GRACEFUL:-0}" = 1 ]; then timeout 10 scancel -u "$(id -un)" 2>/dev/null; sleep 1; fi
SIG=KILL; [ "${KEEP:-0}" != 1 ] || SIG=TERM   # the state is thrown away anyway; a polite slurmctld takes seconds
stop "$SLURM_LAB/run/slurmctld.lab" $SIG
# 2 the nodes, with all that runs on them
for r in "$SLURM_LAB"/run/node.*.lab; do
  [ -e "$r" ] || continue; n=${r##*/node.}; n=${n%.lab}
  SLURM_LAB=$SLURM_LAB "$HERE/slurm_node.sh" crash "$n" || true
done
# stragglers: slurmctld/slurmd/slurmstepd that carry this cluster's mark in their environment
for f in $(grep -lzE "^(SLURM_LAB_NODE=$SLURM_LAB:|SLURM_CONF=$SLURM_LAB/slurm.conf\$)" /proc/[0-9]*/environ 2>/dev/null); do
  case "$(readlink "${f%environ}exe" 2>/dev/null)" in */slurmstepd*|*/slurmd*|*/slurmctld*) p=${f#/proc/}; kill -9 "${p%/environ}" 2>/dev/null ;; esac
done
# 3 the rest
for n in munged; do stop "$SLURM_LAB/run/$n.lab" $SIG; done
if [ "$MODE" = netns ]; then
  for i in $(seq "$NODES"); do
    ip link del "${LAB_ID}v$i" 2>/dev/null; ip netns del "$LAB_ID-$NODE_PREFIX$i" 2>/dev/null
  done
  ip link del "${LAB_ID}br" 2>/dev/null
  [ "$(cat "/run/slurm-lab-$LAB_ID" 2>/dev/null)" != "$SLURM_LAB" ] || rm -f "/run/slurm-lab-$LAB_ID"
fi
if grep -qF "# >>> $LAB_ID $SLURM_LAB" /etc/hosts; then   # /etc/hosts is often a bind mount: rewrite in place, never rename over it
  t=$(awk -v b="# >>> $LAB_ID $SLURM_LAB" -v e="# <<< $LAB_ID $SLURM_LAB" '$0==b{s=1} !s{print} $0==e{s=0}' /etc/hosts) && printf '%s\n' "$t" >/etc/hosts
fi
[ "$(readlink /etc/slurm/slurm.conf 2>/dev/null)" != "$SLURM_LAB/slurm.conf" ] || rm -f /etc/slurm/slurm.conf
rm -f "$SLURM_LAB/config.sh"
if [ "${KEEP:-0}" != 1 ]; then rm -rf "${SLURM_LAB:?}"/{run,state,spool,munge,dev,bin,slurm.conf,gres.conf,cgroup.conf,env.sh,hosts,hosts.block,apt.log}; fi
exit 0
