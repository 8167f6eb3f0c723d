import { expect, test } from 'vitest'
import { applicationNameOf } from './startup-message.ts'

function startup(parameters: Readonly<Record<string, string>>, version = 0x3_0000): Buffer {
  const body = Buffer.from(`${Object.entries(parameters).flat().join('\0')}\0\0`)
  const header = Buffer.alloc(8)
  header.writeUInt32BE(body.length + header.length, 0)
  header.writeUInt32BE(version, 4)
  return Buffer.concat([header, body])
}

test.each([
  [
    'its application name',
    startup({ user: 'a', application_name: 'gateway-eu-west', database: 'b' }),
    'gateway-eu-west',
  ],
  ['a later minor version of the protocol', startup({ application_name: 'x' }, 0x3_0002), 'x'],
  ['a value that is called like the name', startup({ user: 'application_name', database: 'b' }), ''],
  ['what follows the message', Buffer.concat([startup({ user: 'a' }), Buffer.from('application_name\0x\0')]), ''],
  ['no application name', startup({ user: 'a' }), ''],
  ['a request to cancel', startup({ application_name: 'x' }, 80_877_102), ''],
  ['nothing yet', Buffer.alloc(0), ''],
])('the first bytes of a connection: %s', (_, bytes, expected) => {
  expect(applicationNameOf(bytes)).toBe(expected)
})
