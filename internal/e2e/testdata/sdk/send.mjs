// Sends usage events with the public SDKs of OpenMeter and CloudEvents, as their users would, and prints what it sent.
import assert from 'node:assert/strict'
import { OpenMeter } from '@openmeter/sdk'
import { CloudEvent, HTTP, Mode, emitterFor, httpTransport } from 'cloudevents'

const url = process.env.METERD_URL
const key = process.env.METERD_KEY
const sink = `${url}/api/v1/events`
const sent = {} // by subject: events, and tokens in ten-thousandths

let made = 0
// data makes the data of an event and books it.
function data(subject) {
  made++
  const units = 10000 * made + 77
  sent[subject] ??= { events: 0, units: 0 }
  sent[subject].events++
  sent[subject].units += units
  const text = `${Math.floor(units / 10000)}.${String(units % 10000).padStart(4, '0')}`
  return { tokens: made % 2 ? text : Number(text), model: 'gö' }
}

async function post(message, headers = { Authorization: `Bearer ${key}` }) {
  const response = await fetch(sink, { method: 'POST', headers: { ...message.headers, ...headers }, body: message.body })
  assert.equal(response.status, 204, await response.text())
}

async function openmeter() {
  const client = new OpenMeter({ baseUrl: url, apiKey: key })
  await client.events.ingest({ type: 'request', subject: 'om-single', data: data('om-single') })
  const event = { id: 'om-fixed', source: 'shop', type: 'request', subject: 'om-single', time: new Date(), data: data('om-single') }
  await client.events.ingest(event)
  await client.events.ingest(event) // a retry counts once
  const batch = Array.from({ length: 25 }, () => ({ type: 'request', subject: 'om-batch', data: data('om-batch') }))
  await client.events.ingest(batch)
  await assert.rejects(client.events.ingest({ type: 'request', subject: 'om-bad', data: { tokens: 'many' } }), (err) => {
    assert.equal(err.status ?? err.statusCode, 400)
    assert.match(err.message, /urn:meterd:problem:invalid-events|can't be taken/)
    return true
  })
  const stranger = new OpenMeter({ baseUrl: url, apiKey: 'not-a-key-that-exists' })
  await assert.rejects(stranger.events.ingest({ type: 'request', subject: 'om-bad', data: data('nobody') }), (err) => {
    assert.equal(err.status ?? err.statusCode, 401)
    return true
  })
  delete sent.nobody
}

// cloudevent makes an event of the SDK.
const cloudevent = (subject, more = {}) =>
  new CloudEvent({ type: 'request', source: '/js?x=1&y=a+b', subject, data: data(subject), tenant: 'eu-1', ...more })

async function cloudevents() {
  const retried = cloudevent('ce-binary')
  await post(HTTP.binary(retried))
  await post(HTTP.structured(retried)) // a retry counts once, whatever its form
  await post(HTTP.binary(cloudevent('ce-binary')), { 'X-Api-Key': key })
  await post(HTTP.structured(cloudevent('ce-structured')))
  const bytes = new TextEncoder().encode(JSON.stringify(data('ce-bytes')))
  await post(HTTP.structured(cloudevent('ce-bytes', { data: bytes, datacontenttype: 'application/json' })))
  sent['ce-bytes'].events-- // cloudevent() booked data that was replaced
  sent['ce-bytes'].units -= 10000 * made + 77
  for (const mode of [Mode.BINARY, Mode.STRUCTURED]) {
    const emit = emitterFor(httpTransport(sink), { binding: HTTP, mode })
    await emit(cloudevent('ce-emitter'), { headers: { Authorization: `Bearer ${key}` } })
  }
  const batch = Array.from({ length: 10 }, () => cloudevent('ce-batch'))
  await post({ headers: { 'Content-Type': 'application/cloudevents-batch+json' }, body: JSON.stringify(batch) })
}

await openmeter()
await cloudevents()
console.log(JSON.stringify(sent))
