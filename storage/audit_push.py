"""What the audit proves of pushes: nobody is told too little, or was told what there is not."""

from __future__ import annotations

from typing import Final

from storage.push_due import MESSAGE

PUSH_CHECKS: Final[dict[str, str]] = {
    "a device was told more than there is": """
        SELECT d.user_id, d.device_id, d.pushed_seq, h.seq FROM push_devices d LEFT JOIN heads h USING (user_id)
        WHERE (d.pushed_seq BETWEEN 0 AND h.seq) IS NOT TRUE""",
    # Whoever looks moves `pushed_seq` up to the head, so only what came after that is waiting, and with it a row here.
    "something could be pushed, and nobody will look": f"""
        SELECT d.user_id, d.device_id, d.pushed_seq, i.seq FROM push_devices d
        JOIN inbox i ON i.user_id = d.user_id AND i.seq > d.pushed_seq
            AND (i.event_type IS NULL OR i.event_type = '{MESSAGE}'
                OR NOT i.event_type ^@ 'wallet:' AND NOT i.event_type ^@ 'chat:')
        WHERE NOT EXISTS (SELECT FROM push_due p WHERE p.user_id = d.user_id)""",
}
